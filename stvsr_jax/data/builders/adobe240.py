"""Adobe240 (Su et al., CVPR 2017, arXiv 1611.08387): 133 videos at 240 fps, mostly 1280x720.

Split by the name of the video as published for VideoINR: 17 test, 16 validate, the rest trains.
"""

from pathlib import Path

from stvsr_jax.data import splits
from stvsr_jax.data.builders.frame_builder import FrameBuilder
from stvsr_jax.data.builders.source_clip import SourceClip, open_image_folder, open_video
from stvsr_jax.files import VIDEO_SUFFIXES, list_images


class Adobe240(FrameBuilder):
    """The videos, each one clip without cuts, of a record per frame."""

    DESCRIPTION = "Adobe240: 133 videos at 240 fps; 100 to train on, 16 to validate, 17 to test."
    HOMEPAGE = "https://www.cs.ubc.ca/labs/imager/tr/2017/DeepVideoDeblurring/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "the extracted videos in one folder (GOPR9653.mp4, IMG_0001.m4v ...), or a folder of frames for each "
        "(GOPR9653/000001.png ...)"
    )

    def find_clips(self, source: Path) -> dict[str, list[SourceClip]]:
        if not source.is_dir():
            raise self.wrong_layout(source)
        found, doubled = {}, []
        for path in sorted(source.iterdir()):
            is_clip = list_images(path) if path.is_dir() else path.suffix.lower() in VIDEO_SUFFIXES
            if not is_clip or path.name.startswith("."):
                continue
            name = path.name if path.is_dir() else path.stem
            doubled += [name] if name in found else []
            found[name] = path.absolute()
        if not found:
            raise self.wrong_layout(source)
        if doubled:
            raise ValueError(f"{source} holds {', '.join(doubled)} twice; leave one of each")
        self.check_missing(source, sorted((splits.ADOBE240_TEST | splits.ADOBE240_VALIDATION) - set(found)))
        clips = {"train": [], "validation": [], "test": []}
        for name, path in found.items():
            split = (
                "test"
                if name in splits.ADOBE240_TEST
                else "validation"
                if name in splits.ADOBE240_VALIDATION
                else "train"
            )
            clips[split].append((open_image_folder if path.is_dir() else open_video)(path, name))
        return clips
