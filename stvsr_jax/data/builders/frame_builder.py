"""What the builders share: a record per frame, shards of whole clips, a list of the clips beside them.

A record is {clip, frame, tiles}: the clip's name, the frame's number in it, and the frame as in `tile_codec`. The
frames of a clip follow each other in one shard, and `metadata.json` lists the clips of each split in order,
so any frame of any clip is one random read.

TFDS builds a data set in one go, in a directory that vanishes when it is interrupted. Here the shards are made
first, in a directory of their own that stays (see `shards`), and TFDS only links them into place: a rerun
makes those that are missing, and the data set appears under its name complete or not at all.
"""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from stvsr_jax.data.builders import records, shards
from stvsr_jax.data.builders.source_clip import SourceClip, first_few
from stvsr_jax.video import tile_codec


class FrameBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A data set of frames; subclasses say what it is and find its clips.

    Args:
      source: where the published files are, a folder or an archive; by default TFDS's manual directory.
      is_partial: take what is there of an incomplete source instead of refusing it.
      num_workers: processes that make shards.
      kwargs: of `tfds.core.DatasetBuilder`; `file_format` is always array_record.
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {"2.0.0": "Tiles coded by zlib.", "1.0.0": "First version."}
    # Nothing is downloaded. To look for checksums TFDS would import a package that it does not require.
    url_infos = {}
    # Clips of one shard, which is what an interruption can cost.
    CLIPS_PER_SHARD = 1
    DESCRIPTION = ""
    HOMEPAGE = ""
    # The layout expected of a source, also for messages.
    MANUAL_DOWNLOAD_INSTRUCTIONS = ""

    def __init__(
        self,
        *,
        source: str | os.PathLike | None = None,
        is_partial: bool = False,
        num_workers: int = 1,
        **kwargs,
    ):
        self._source = source
        self._is_partial = is_partial
        self._num_workers = num_workers
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            homepage=self.HOMEPAGE,
            features=records.FEATURES,
            metadata=tfds.core.MetadataDict(),
        )

    def find_clips(self, source: Path) -> Mapping[str, Sequence[SourceClip]]:
        """Returns the clips of each split, in order, after looking for missing ones.

        Raises:
          ValueError: the layout is another, or clips or frames are missing.
        """
        raise NotImplementedError

    def wrong_layout(self, source: Path) -> ValueError:
        """Returns the error for a source that looks like something else."""
        return ValueError(
            f"{source} is not {self.name} as it is published; expected {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )

    def check_missing(self, source: Path, missing: Sequence[str]) -> None:
        """Raises ValueError if anything is missing and nothing may be."""
        if missing and not self._is_partial:
            raise ValueError(
                f"{source} lacks {len(missing)} of what belongs to {self.name}: {first_few(missing)}. "
                "Complete it, or take what is there with --partial"
            )

    def find_added(self, source: Path) -> list[str]:
        """Returns the names of clips that the source holds and the prepared set lacks, if it was made with `is_partial`.

        Raises:
          ValueError: as `find_clips`; a source that is still incomplete, unless this builder takes those.
        """
        made = self.info.metadata
        if not made.get("is_partial", True):  # not said by older versions
            return []
        names = {clip[0] for clips in made["clips"].values() for clip in clips}
        found = self.find_clips(source)
        return sorted(clip.name for clips in found.values() for clip in clips if clip.name not in names)

    @property
    def parts_dir(self) -> Path:
        """Where finished shards wait for the rest."""
        return Path(self.data_dir_root, self.name, f"unfinished-{self.VERSION}")

    def _shard_iterators_per_split(self, dl_manager):
        source = Path(self._source or dl_manager.manual_dir)
        splits = {split: clips for split, clips in self.find_clips(source).items() if clips}
        if "train" not in splits and not self._is_partial:
            raise ValueError(
                f"{source} holds no clip to train on; expected {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        planned = {split: shards.plan(clips, self.CLIPS_PER_SHARD) for split, clips in splits.items()}
        made = shards.make(planned, self.parts_dir, num_workers=self._num_workers, description=self.name)
        self._linker.shards = {
            (split, number): shard.path for split, found in made.items() for number, shard in enumerate(found)
        }
        self.info.metadata["tiles"] = tile_codec.VERSION
        self.info.metadata["is_partial"] = self._is_partial
        self.info.metadata["clips"] = {
            split: [dataclasses.astuple(clip) for shard in found for clip in shard.clips]
            for split, found in made.items()
        }
        return {split: [_Count(shard.num_frames) for shard in found] for split, found in made.items()}

    def _example_writer(self):
        self._linker = _Linker(self.info.file_format)
        return self._linker

    def _post_download_and_prepare_hook(self) -> None:
        shutil.rmtree(self.parts_dir)


@dataclasses.dataclass(frozen=True)
class _Count:
    """The examples of a finished shard as TFDS counts them; their content is in the shard."""

    number: int

    def __call__(self):
        return ((n, None) for n in range(self.number))


class _Linker(tfds.core.ExampleWriter):
    """Puts finished shards in the places that TFDS wants them written to."""

    def __init__(self, file_format):
        super().__init__(file_format)
        # By (split, number).
        self.shards: dict[tuple[str, int], Path] = {}

    def write(self, path, examples):
        del examples
        place = tfds.core.naming.FilenameInfo.from_str(os.path.basename(path))
        shard = self.shards[place.split, place.shard_index]
        try:
            os.link(shard, path)
        except OSError:  # a file system without links
            shutil.copyfile(shard, path)
