"""Data sets to be measured on, by the layout their publishers gave them.

Only the ground truth is needed: low resolution is made from it with MATLAB's bicubic, unless a folder of given
low-resolution clips of the same layout is named. Everything that can be wrong with a data set is found from
names, counts and image headers, before a frame is decoded.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from stvsr_jax import bicubic, metrics
from stvsr_jax.data import splits
from stvsr_jax.data.clip import Clip
from stvsr_jax.data.compression import H264
from stvsr_jax.data.frame_folder import open_frame_folder
from stvsr_jax.data.sources import open_path
from stvsr_jax.data.video_file import open_video
from stvsr_jax.evaluation.coded import CodedClip, VideoCache
from stvsr_jax.evaluation.protocols import Protocol, Window
from stvsr_jax.files import VIDEO_SUFFIXES
from stvsr_jax.video.index import IN_ORDER_KEYFRAME_GAP

VID4_FRAMES = {"calendar": 41, "city": 34, "foliage": 49, "walk": 47}
VIMEO_CLIPS = {"fast": 1225, "medium": 4977, "slow": 1613}
_VIMEO_FRAMES = 7


@dataclasses.dataclass(frozen=True)
class EvaluationClip:
    """Ground truth and the low resolution that belongs to it.

    Attributes:
      name: unique in its data set.
      source: the clip as stored.
      given: the low-resolution clip, as stored or coded, or None to make it.
      reduce: the ground truth is the source reduced so many times, in 8 bits as if stored so.
      protocol: decides the scale, the crop and the rounding.
    """

    name: str
    source: Clip
    given: Clip | CodedClip | None
    reduce: float
    protocol: Protocol

    @property
    def num_frames(self) -> int:
        return self.source.num_frames

    @property
    def size(self) -> tuple[int, int]:
        """(H', W') of the ground truth, cropped at the right and below."""
        sides = (
            bicubic.output_size(side, 1.0 / self.reduce) for side in (self.source.height, self.source.width)
        )
        height, width = (side - side % self.protocol.multiple for side in sides)
        return height, width

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Returns what a network is given, and what it should make of it.

        Args:
          window: of this clip.

        Returns:
          frames: [N, H, W, 3] of `window.inputs`; uint8, or float32 in units of [0, 1], neither clamped nor
            rounded, where the protocol does not ask for 8 bits.
          target: uint8 [T, H', W', 3] of `window.scored`.
        """
        needed = window.scored if self.given else sorted({*window.inputs, *window.scored})
        known = dict(zip(needed, self._read_target(needed), strict=True))
        target = np.stack([known[index] for index in window.scored])
        if self.given:
            frames = self.given.read(window.inputs)
            return (frames if self.protocol.has_8_bit_input else np.float32(frames) / np.float32(255)), target
        frames = np.stack([known[index] for index in window.inputs])
        frames = bicubic.imresize(frames, scale=1.0 / self.protocol.space)
        return (
            bicubic.to_uint8(frames) if self.protocol.has_8_bit_input else frames / np.float32(255)
        ), target

    def read_low_resolution(self, indices: Sequence[int]) -> np.ndarray:
        """Returns low-resolution frames as a file holds them, uint8 [N, H, W, 3]."""
        if self.given:
            return self.given.read(indices)
        return bicubic.to_uint8(bicubic.imresize(self._read_target(indices), scale=1.0 / self.protocol.space))

    def _read_target(self, indices: Sequence[int]) -> np.ndarray:
        frames = self.source.read(indices)
        if self.reduce != 1:
            frames = bicubic.to_uint8(bicubic.imresize(frames, scale=1.0 / self.reduce))
        height, width = self.size
        return frames[:, :height, :width]


def open_dataset(
    name: str,
    path: Path,
    protocol: Protocol,
    *,
    given: Path | None = None,
    clip_list: Path | None = None,
    reduce: float = 1.0,
    coding: H264 | None = None,
) -> list[EvaluationClip]:
    """Opens a data set and checks that all of it can be measured.

    Args:
      name: a key of `LAYOUTS`.
      path: its folder; for 'folder' also a single clip.
      protocol: what will be measured.
      given: folder of low-resolution clips in the same layout; None makes them.
      clip_list: file with the names of the clips, for Vimeo-90k.
      reduce: see `EvaluationClip`.
      coding: low resolution, given or made, is what this leaves of it.

    Raises:
      ValueError: the folder is not that data set, or a clip is too short, too small or has no fitting low
        resolution.
      FileNotFoundError: there is no such folder.
    """
    if name not in LAYOUTS:
        raise ValueError(f"data set {name!r} is not one of {', '.join(LAYOUTS)}")
    if not (math.isfinite(reduce) and reduce >= 1):
        raise ValueError(f"reduce={reduce:g} must be a number of at least 1")
    if clip_list is not None and not name.startswith("vimeo90k"):
        raise ValueError(f"a list of clips ({clip_list}) is for Vimeo-90k, not for {name}")
    for folder in filter(None, (path, given)):
        if not folder.exists():
            raise FileNotFoundError(f"there is no {folder}")
    sources = LAYOUTS[name](path, clip_list, False)
    low_resolution = LAYOUTS[name](given, clip_list, True) if given else {}
    if given and sources.keys() != low_resolution.keys():
        raise ValueError(
            f"{path} and {given} hold different clips: only in the former {sorted(sources.keys() - low_resolution.keys())}, "
            f"only in the latter {sorted(low_resolution.keys() - sources.keys())}"
        )
    clips = [
        EvaluationClip(clip_name, source, low_resolution.get(clip_name), reduce, protocol)
        for clip_name, source in sources.items()
    ]
    for clip in clips:
        _check(clip)
    if coding is None:
        return clips
    cache = VideoCache()
    return [dataclasses.replace(clip, given=_code(clip, coding, cache)) for clip in clips]


def _code(clip: EvaluationClip, coding: H264, cache: VideoCache) -> CodedClip:
    height, width = (side // clip.protocol.space for side in clip.size)
    return CodedClip(
        clip.name,
        num_frames=clip.num_frames,
        height=height,
        width=width,
        read=clip.read_low_resolution,
        settings=coding,
        cache=cache,
    )


def _check(clip: EvaluationClip) -> None:
    protocol, (height, width) = clip.protocol, clip.size
    if clip.num_frames < protocol.shortest:
        raise ValueError(
            f"clip {clip.name} has {clip.num_frames} frames; protocol {protocol.name} needs {protocol.shortest}"
        )
    smallest = max(metrics.SSIM_WINDOW, protocol.space * 4)
    if min(height, width) < smallest:
        raise ValueError(
            f"clip {clip.name} has ground truth of {width}x{height} pixels (reduced {clip.reduce:g} times, "
            f"cropped to multiples of {protocol.multiple}); at least {smallest}x{smallest} are needed"
        )
    if clip.given is None:
        return
    low = clip.given
    if low.num_frames != clip.num_frames:
        raise ValueError(
            f"clip {clip.name} has {clip.num_frames} frames and {low.num_frames} of low resolution; "
            "there must be as many"
        )
    if (low.height * protocol.space, low.width * protocol.space) != (height, width):
        raise ValueError(
            f"clip {clip.name} has ground truth of {width}x{height} pixels (cropped to multiples of "
            f"{protocol.multiple}) and low resolution of {low.width}x{low.height}; protocol {protocol.name} needs "
            f"{width / protocol.space:g}x{height / protocol.space:g}"
        )


def _folder(path: Path, clip_list: Path | None, is_low_resolution: bool) -> Mapping[str, Clip]:
    return {
        clip.name: clip
        for clip in open_path(path, cut_threshold=None, max_keyframe_gap=IN_ORDER_KEYFRAME_GAP)
    }


def _vid4(path: Path, clip_list: Path | None, is_low_resolution: bool) -> Mapping[str, Clip]:
    found = _find_folders(
        path, ("", "LR", "BIx4") if is_low_resolution else ("", "GT", "HR"), VID4_FRAMES, "Vid4"
    )
    clips = {name: _open_frames(folder, name) for name, folder in found.items()}
    for name, clip in clips.items():
        if clip.num_frames != VID4_FRAMES[name]:
            raise ValueError(
                f"{found[name]} has {clip.num_frames} frames; {name} of Vid4 has {VID4_FRAMES[name]}"
            )
    return clips


def _spmc(path: Path, clip_list: Path | None, is_low_resolution: bool) -> Mapping[str, Clip]:
    part = "input4" if is_low_resolution else "truth"
    folders = sorted(folder for folder in (*path.glob(f"*/{part}"), *path.glob(f"test_set/*/{part}")))
    if not folders:
        raise ValueError(f"{path} is not SPMC: no folder CLIP/{part} in it or in its test_set")
    return {folder.parent.name: _open_frames(folder, folder.parent.name) for folder in folders}


def _vimeo90k(speed: str) -> Callable[[Path, Path | None, bool], Mapping[str, Clip]]:
    def open_clips(path, clip_list, is_low_resolution):
        lists = [clip_list] if clip_list else [path / f"{p}{speed}_testset.txt" for p in ("", "sep_")]
        chosen = next((file for file in lists if file.is_file()), None)
        if chosen is None:
            raise ValueError(
                f"Vimeo-90k {speed} needs its list of clips; there is no {' nor '.join(map(str, lists))}"
            )
        names = [line.strip() for line in chosen.read_text(errors="replace").splitlines() if line.strip()]
        if len(set(names)) != VIMEO_CLIPS[speed] or len(names) != VIMEO_CLIPS[speed]:
            raise ValueError(
                f"{chosen} lists {len(set(names))} different clips; Vimeo-90k {speed} has {VIMEO_CLIPS[speed]}"
            )
        found = _find_folders(
            path, ("", "sequences", "vimeo_septuplet/sequences"), names, f"Vimeo-90k {speed}"
        )
        clips = {name: _open_frames(folder, name) for name, folder in found.items()}
        for name, clip in clips.items():
            if clip.num_frames != _VIMEO_FRAMES:
                raise ValueError(
                    f"{found[name]} has {clip.num_frames} frames; a clip of Vimeo-90k has {_VIMEO_FRAMES}"
                )
        return clips

    return open_clips


def _named_clips(
    names: Sequence[str], folders: Sequence[str], title: str
) -> Callable[[Path, Path | None, bool], Mapping[str, Clip]]:
    def open_clips(path, clip_list, is_low_resolution):
        found = _find_folders(path, folders, names, title)
        return {name: _open_frames(item, name) for name, item in found.items()}

    return open_clips


def _find_folders(path: Path, places: Sequence[str], names: Sequence[str], title: str) -> dict[str, Path]:
    """Returns where each clip is: in the first of `places` below `path` that has them all.

    A clip is a folder, or a video of that name.
    """
    missing = {}
    for place in places:
        folder = path / place
        videos = {}
        if folder.is_dir():
            videos = {f.stem: f for f in sorted(folder.iterdir()) if f.suffix.lower() in VIDEO_SUFFIXES}
        found = {name: folder / name if (folder / name).is_dir() else videos.get(name) for name in names}
        missing[place] = [name for name, item in found.items() if item is None]
        if not missing[place]:
            return found
    place, lacking = min(missing.items(), key=lambda item: len(item[1]))
    shown = ", ".join(lacking[:4]) + (f" and {len(lacking) - 4} more" if len(lacking) > 4 else "")
    raise ValueError(f"{path} is not {title}: {path / place} lacks {shown}")


def _open_frames(item: Path, name: str) -> Clip:
    if item.is_dir():
        return open_frame_folder(item, name=name, cut_threshold=None)
    return open_video(item, name=name, cut_threshold=None, max_keyframe_gap=IN_ORDER_KEYFRAME_GAP)


# From a folder, the list of clips (or None) and whether it is low resolution to {name: clip}.
LAYOUTS: dict[str, Callable[[Path, Path | None, bool], Mapping[str, Clip]]] = {
    "folder": _folder,
    "vid4": _vid4,
    "spmc": _spmc,
    **{f"vimeo90k-{speed}": _vimeo90k(speed) for speed in VIMEO_CLIPS},
    "adobe240": _named_clips(tuple(sorted(splits.ADOBE240_TEST)), ("", "test"), "Adobe240's test split"),
    "gopro": _named_clips(tuple(sorted(splits.GOPRO_TEST)), ("", "test"), "GoPro's test split"),
}
