"""Decodes videos once, for training that outruns a decoder: `python -m stvsr_jax.data.decode CLIPS OUT`.

Writes each scene as uint8 frames [N, H, W, 3] in a .npy file, reduced by averaging whole blocks of pixels, which also
takes away what compression left. Repeated frames are left out. OUT is a folder of clips for `data.path`; a sample of
it costs no decoding at all, and takes the memory of its pixels alone: 0.7 MB a frame of 640x360.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stvsr_jax import command_line
from stvsr_jax.data.array_file import SUFFIX
from stvsr_jax.data.clip import Clip
from stvsr_jax.data.sources import find_clips, open_path
from stvsr_jax.files import write_array
from stvsr_jax.stages import count_cores
from stvsr_jax.video.scene_cuts import REPEATED, frame_change

# Frames read at a time.
_CHUNK = 32
# Scenes are read from their first frame to their last: no frame is decoded for nothing, wherever keyframes are.
_ANY_KEYFRAME_GAP = 2**31


def choose_reduction(height: int, width: int, *, reduce: int, max_side: int) -> int:
    """Returns by how much frames are reduced: `reduce`, or more where the longer side would exceed `max_side`."""
    return max(reduce, -(-max(height, width) // max_side))


def reduce_frames(frames: np.ndarray, factor: int) -> np.ndarray:
    """Averages blocks of factor x factor pixels of uint8 [N, H, W, 3]; what does not fill a block is cut off."""
    if factor == 1:
        return frames
    n, height, width, channels = frames.shape
    h, w = height // factor, width // factor
    blocks = frames[:, : h * factor, : w * factor].reshape(n, h, factor, w, factor, channels)
    total = blocks.sum(axis=(2, 4), dtype=np.uint32)
    return ((total + factor * factor // 2) // (factor * factor)).astype(np.uint8)


def scene_frames(clip: Clip, scene: tuple[int, int], factor: int) -> np.ndarray:
    """Returns the reduced frames of a scene that differ from the one before, uint8 [N, h, w, 3]."""
    kept, last = [], None
    for frames in _read_chunks(clip, *scene):
        for frame in reduce_frames(frames, factor):
            thumbnail = _shrink(frame)
            if last is None or frame_change(last, thumbnail) > REPEATED:
                kept.append(frame)
                last = thumbnail
    return np.stack(kept)


def _read_chunks(clip, start, end) -> Iterator[np.ndarray]:
    for first in range(start, end, _CHUNK):
        yield clip.read(range(first, min(first + _CHUNK, end)))


def _shrink(frame):
    """Returns a thumbnail, uint8 [h, w, 3] of at most 32 rows."""
    return reduce_frames(frame[None], max(1, min(frame.shape[:2]) // 18))[0]


def decode_clip(
    clip: Clip, out: Path, *, reduce: int, max_side: int, min_frames: int, min_side: int
) -> list[Path]:
    """Writes every scene of a clip that is long and large enough; those that are there already stay.

    Returns:
      The files.
    """
    factor = choose_reduction(clip.height, clip.width, reduce=reduce, max_side=max_side)
    if min(clip.height, clip.width) // factor < min_side:
        return []
    written = []
    for number, (start, end) in enumerate(clip.scenes):
        path = out / f"{clip.name.replace('/', '_')}.{number:03d}{SUFFIX}"
        if not path.exists():
            if (
                end - start < min_frames
                or len(frames := scene_frames(clip, (start, end), factor)) < min_frames
            ):
                continue
            write_array(path, frames)
        written.append(path)
    return written


def decode_path(path: Path, out: Path, *, cache_dir: str | None, **options) -> tuple[list[Path], list[str]]:
    """Scans one video or folder of frames and writes its scenes; `options` are those of `decode_clip`.

    Returns:
      The files, and a sentence about each clip that cannot be used.
    """
    faults = []
    written = []
    clips = open_path(path, cache_dir=cache_dir, faults=faults, max_keyframe_gap=_ANY_KEYFRAME_GAP)
    for clip in clips:
        written += decode_clip(clip, out, **options)
    return written, faults


def decode_source(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    workers: int,
    cache_dir: str | None = None,
    **options,
) -> tuple[list[Path], list[str]]:
    """Writes the scenes of all clips below a path, several at a time; see `decode_path`."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    faults = []
    paths = find_clips(Path(source), faults)
    written = []
    # Started afresh: a forked process would share the locks of threads that it does not have.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        tasks = [pool.submit(decode_path, path, out, cache_dir=cache_dir, **options) for path in paths]
        for task in tqdm(concurrent.futures.as_completed(tasks), total=len(tasks), leave=False, disable=None):
            files, more = task.result()
            written += files
            faults += more
    return sorted(written), faults


def make_parser() -> argparse.ArgumentParser:
    """Returns the flags."""
    parser = command_line.new_parser("python -m stvsr_jax.data.decode", __doc__.partition("\n")[0])
    parser.add_argument("source", help="a video, a folder of videos, or a folder of frames")
    parser.add_argument("out", help="folder for the frames; as data.path it is a folder of clips")
    parser.add_argument(
        "--reduce", type=int, default=1, help="reduce frames by at least this whole factor (1)"
    )
    parser.add_argument(
        "--max_side", type=int, default=100_000, help="reduce further until no side is longer"
    )
    parser.add_argument("--min_side", type=int, default=128, help="leave out clips that end up smaller (128)")
    parser.add_argument("--min_frames", type=int, default=9, help="leave out scenes that are shorter (9)")
    parser.add_argument("--workers", type=int, default=count_cores(), help="processes (one per core)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Decodes what the command line says."""
    options = vars(args)
    for name in ("reduce", "max_side", "min_side", "min_frames", "workers"):
        if options[name] < 1:
            raise ValueError(f"--{name} {options[name]} must be at least 1")
    with command_line.resumable("the same command goes on from here"):
        written, faults = decode_source(options.pop("source"), options.pop("out"), **options)
    for fault in faults:
        print(f"left out: {fault}", file=sys.stderr)
    if not written:
        raise ValueError("no scene is long and large enough to be written")
    size = sum(path.stat().st_size for path in written)
    print(f"{len(written)} scenes, {size / 1e9:.2f} GB")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
