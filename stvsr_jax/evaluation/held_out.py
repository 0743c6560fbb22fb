"""What a network is worth on one's own footage: a clip is made small and slow, enlarged, and compared with itself.

    python -m stvsr_jax.evaluation.held_out clip.mp4 OUT --frames 49

The clip is the ground truth. Reduced four times with MATLAB's bicubic and without every second frame it becomes
OUT/input.mkv (lossless); the inference tool makes OUT/result.mp4 of that. OUT/compare.mp4 and OUT/compare.png show the
input, bicubic (frames between two given ones are their mean), the result and the original. The last line says by how
many dB of PSNR-Y the result is nearer to the original than bicubic, on the frames that were left out and on the
others.
"""

import argparse
import itertools
import pathlib
import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from stvsr_jax import bicubic, command_line, metrics
from stvsr_jax.inference import compare
from stvsr_jax.inference.__main__ import main as run_inference
from stvsr_jax.parsers import values
from stvsr_jax.video import colour, media, sequential_reader
from stvsr_jax.weights import choice

SPACE = 4
OUTPUTS = ("input.mkv", "result.mp4", "compare.mp4", "compare.png")
_PANEL_WIDTH = 320  # smaller frames are shown with whole pixels repeated


def read_target(clip: pathlib.Path, *, start: int, frames: int) -> tuple[np.ndarray, Fraction]:
    """Reads the ground truth.

    Args:
      clip: a video or a folder of pictures.
      start: the first frame.
      frames: how many frames to use at most.

    Returns:
      uint8 [T, H, W, 3], cropped to multiples of `SPACE`, T odd and at least 3; frames per second.

    Raises:
      ValueError: the clip cannot be read, or is too short or too small.
    """
    info = sequential_reader.probe(clip)
    read = itertools.islice(sequential_reader.read_frames(info), start, start + frames)
    images = [colour.to_8_bits(frame.image) for frame in read]
    images = images[: len(images) - (len(images) + 1) % 2]
    if len(images) < 3 or min(images[0].shape[:2]) < 4 * SPACE:
        raise ValueError(
            f"{clip} has {info.frame_count} frames of {info.width}x{info.height}; from frame {start} at least 3 are "
            f"needed, of {4 * SPACE}x{4 * SPACE}"
        )
    height, width = (side - side % SPACE for side in images[0].shape[:2])
    return np.stack(images)[:, :height, :width], info.rate


def reduce(target: np.ndarray) -> np.ndarray:
    """Returns the input [N, H, W, 3] for a target uint8 [2N - 1, 4H, 4W, 3]: every second frame, reduced four times."""
    return bicubic.to_uint8(bicubic.imresize(target[::2], scale=1 / SPACE))


def enlarge(given: np.ndarray) -> np.ndarray:
    """Returns uint8 [2N - 1, 4H, 4W, 3]: frames [N, H, W, 3] enlarged bicubically, between each two their mean."""
    large = bicubic.imresize(given, scale=SPACE)
    result = np.empty((2 * len(given) - 1, *large.shape[1:]), np.uint8)
    result[::2] = bicubic.to_uint8(large)
    result[1::2] = bicubic.to_uint8((large[:-1] + large[1:]) / 2)
    return result


def score(frames: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns PSNR-Y of each frame in dB; both are uint8 [T, H, W, 3]."""
    pairs = zip(frames, target, strict=True)
    return np.array([float(metrics.psnr_y(a / np.float32(255), b / np.float32(255))) for a, b in pairs])


def write_video(path: pathlib.Path, frames: Iterable[np.ndarray], *, rate: Fraction, is_exact: bool) -> None:
    """Writes uint8 [H, W, 3] frames, in RGB without loss, or as H.264 that every player knows."""
    codec, pixel_format, options = ("ffv1", "bgr0", {}) if is_exact else ("libx264", "yuv420p", {"crf": "14"})
    with media.open_to_write(path) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.pix_fmt = pixel_format
        for i, image in enumerate(frames):
            if i == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = i, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def panels(
    given: np.ndarray, plain: np.ndarray, result: np.ndarray, target: np.ndarray
) -> Iterable[np.ndarray]:
    """Yields [H, W, 3] of each frame of the target: input (held), bicubic, result and original side by side."""
    repeat = max(1, -(-_PANEL_WIDTH // target.shape[2]))
    for i in range(len(target)):
        small = given[i // 2].repeat(SPACE * repeat, 0).repeat(SPACE * repeat, 1)
        large = (frames[i].repeat(repeat, 0).repeat(repeat, 1) for frames in (plain, result, target))
        kind = "interpolated" if i % 2 else "given frame"
        labels = (
            "input",
            "bicubic, mean of two frames" if i % 2 else "bicubic",
            f"result, {kind}",
            "original",
        )
        yield np.concatenate(
            [compare.put_label(*pair) for pair in zip((small, *large), labels, strict=True)], 1
        )


def make_parser() -> argparse.ArgumentParser:
    """Returns the flags."""
    parser = command_line.new_parser(
        "python -m stvsr_jax.evaluation.held_out",
        "Makes a clip small and slow, enlarges it, and compares the result with the clip.",
    )
    add = parser.add_argument
    add("clip", type=pathlib.Path, help="a video, or a folder of pictures")
    add("out", type=pathlib.Path, help=f"folder for {', '.join(OUTPUTS)}")
    add("--frames", type=int, default=49, help="how many frames to use; default: 49")
    add("--start", type=int, default=0, help="the first of them; default: 0")
    values.add_weights(parser)
    add("--overwrite", action="store_true", help="replace results that exist")
    return parser


def run(args: argparse.Namespace) -> int:
    """Does what the command line says; returns the exit code."""
    files = [args.out / name for name in OUTPUTS]
    if args.frames < 3 or args.start < 0:
        raise ValueError(f"frames={args.frames} must be at least 3, start={args.start} at least 0")
    if (existing := [file for file in files if file.exists()]) and not args.overwrite:
        raise ValueError(f"{existing[0]} exists; --overwrite replaces it")
    # The reduced frames count as clean, whatever the clip's own compression.
    chosen = choice.choose(checkpoint=args.checkpoint, model=args.model, is_video=False)
    target, rate = read_target(args.clip, start=args.start, frames=args.frames)
    args.out.mkdir(parents=True, exist_ok=True)
    given = reduce(target)
    write_video(files[0], given, rate=rate / 2, is_exact=True)
    if chosen.remark:
        print(chosen.remark, file=sys.stderr)
    code = run_inference(
        [
            str(files[0]),
            str(files[1]),
            "--checkpoint",
            chosen.source,
            "--space",
            str(SPACE),
            "--time",
            "2",
        ]
        + (["--overwrite"] if args.overwrite else [])
    )
    if code:
        return code
    made = sequential_reader.read_frames(sequential_reader.probe(files[1]))
    result = np.stack([frame.image for frame in itertools.islice(made, len(target))])
    line = _report(files, given, result, target, rate)
    print(f"{files[0]}: {_describe(given, rate / 2)}\n{files[1]}: {_describe(target, rate)}")
    print(f"{files[2]}, {files[3]}: input, bicubic, result, original\n{line}")
    return 0


def _report(files, given, result, target, rate):
    """Writes the comparison and returns the line with the scores."""
    plain = enlarge(given)
    write_video(files[2], panels(given, plain, result, target), rate=rate, is_exact=False)
    # The frame that was left out where most moves, and the given one before it.
    moving = np.abs(target[2::2].astype(np.int16) - target[:-2:2]).mean((1, 2, 3))
    first = 2 * int(moving.argmax())
    shown = itertools.islice(panels(given, plain, result, target), first, first + 2)
    Image.fromarray(np.concatenate(list(shown))).save(files[3])
    ours, theirs = score(result, target), score(plain, target)
    gain = ours - theirs
    return (
        f"{len(target) // 2} frames that were left out: {ours[1::2].mean():.2f} dB, bicubic {theirs[1::2].mean():.2f} dB: "
        f"{gain[1::2].mean():+.2f} dB (given frames {ours[::2].mean():.2f}, bicubic {theirs[::2].mean():.2f}: "
        f"{gain[::2].mean():+.2f})"
    )


def _describe(frames, rate):
    return f"{frames.shape[2]}x{frames.shape[1]}, {float(rate):.4g} frames per second"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
