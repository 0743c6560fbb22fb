"""GoPro (Nah et al., CVPR 2017, arXiv 1612.02177): GOPRO_Large_all, 33 sequences of 1280x720 at 240 fps."""

from pathlib import Path

from stvsr_jax.data import splits
from stvsr_jax.data.builders.frame_builder import FrameBuilder
from stvsr_jax.data.builders.source_clip import SourceClip, open_image_folder


class Gopro(FrameBuilder):
    """The sharp frames, in the published folders."""

    DESCRIPTION = "GoPro: 22 training and 11 test sequences of sharp frames, 1280x720 pixels, 240 fps."
    HOMEPAGE = "https://seungjunnah.github.io/Datasets/gopro"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "GOPRO_Large_all: train/NAME/000001.png ... and test/NAME/000001.png ..."

    def find_clips(self, source: Path) -> dict[str, list[SourceClip]]:
        if not (source / "test").is_dir() and (source / "GOPRO_Large_all").is_dir():
            source = source / "GOPRO_Large_all"
        folders = {split: _list_folders(source / split) for split in ("train", "test")}
        if not any(folders.values()):
            raise self.wrong_layout(source)
        names = {split: {folder.name for folder in found} for split, found in folders.items()}
        if misplaced := sorted((names["train"] & splits.GOPRO_TEST) | (names["test"] - splits.GOPRO_TEST)):
            raise ValueError(
                f"{source}: {', '.join(misplaced)} are not in the published folder of train and test"
            )
        self.check_missing(source, [f"test/{name}" for name in sorted(splits.GOPRO_TEST - names["test"])])
        return {
            split: [open_image_folder(folder.absolute(), folder.name) for folder in found]
            for split, found in folders.items()
        }


def _list_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
