"""Figures of evaluations: `python -m stvsr_jax.evaluation.figures RUN... --out DIR`.

psnr_over_time.png     PSNR of Y of each frame of a clip: a saw-tooth, given frames above interpolated ones
quality_and_speed.png  PSNR of Y of each run against its frames per second
crops.png              a part of a frame, ground truth and runs side by side, enhanced differences below; needs runs made
                       with --save_frames
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from stvsr_jax import command_line
from stvsr_jax.evaluation import report, results
from stvsr_jax.inference.compare import put_label

_CROP = 64  # pixels of the ground truth
_SHOWN = 256  # at least as many in the picture
_GAIN = 2  # by which differences are enhanced
_GAP = 4  # white pixels between pictures


def draw_psnr_over_time(runs: Sequence[Path], clip: str, path: Path) -> None:
    """Plot PSNR of Y of every frame of a clip, one line for each run, given frames marked."""
    figure, axes = _new_figure(10, 4)
    for run in runs:
        rows = [row for row in results.read_csv(run / "frames.csv") if row.clip == clip]
        (line,) = axes.plot(
            [row.frame for row in rows], [row.scores["psnr_y"] for row in rows], lw=1, label=_label(run)
        )
        given = [row for row in rows if row.is_given]
        axes.plot(
            [row.frame for row in given],
            [row.scores["psnr_y"] for row in given],
            "o",
            ms=3,
            color=line.get_color(),
        )
    axes.set(xlabel="frame (dots: given)", ylabel="PSNR of Y, dB", title=f"{clip}, {_protocol(runs[0])}")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize="small")
    figure.savefig(path)


def draw_quality_and_speed(runs: Sequence[Path], path: Path) -> None:
    """Plot PSNR of Y over frames per second, one point for each run."""
    figure, axes = _new_figure(6, 4)
    from matplotlib import ticker

    speeds = []
    for run in runs:
        record = report.read_record(run)
        speed, quality = 1.0 / record["seconds_per_frame"], float(record["scores"]["psnr_y"])
        speeds.append(speed)
        axes.plot(speed, quality, "o")
        axes.annotate(
            _label(run), (speed, quality), xytext=(6, 4), textcoords="offset points", fontsize="small"
        )
    devices = {report.read_record(run)["settings"]["device"]["kind"] for run in runs}
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.margins(y=0.25)
    axes.set(
        xlim=(min(speeds) / 2, max(speeds) * 4),
        xlabel=f"frames per second, {', '.join(sorted(devices))}",
        ylabel="PSNR of Y, dB",
        title=f"{report.read_record(runs[0])['settings']['dataset']['name']}, {_protocol(runs[0])}",
    )
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path)


def draw_crops(
    runs: Sequence[Path], clip: str, frame: int, path: Path, *, crop: tuple[int, int, int, int] | None = None
) -> None:
    """Puts a part of a frame beside that of the ground truth, and the differences below.

    Args:
      runs: with saved frames.
      clip: which clip.
      frame: which of its frames.
      path: the picture.
      crop: (top, left, height, width); by default where the first run is farthest from the ground truth.

    Raises:
      ValueError: frames were not saved, or the crop lies outside.
    """
    target = _read_frame(runs[0], "targets", clip, frame)
    predictions = [_read_frame(run, "predictions", clip, frame) for run in runs]
    top, left, height, width = crop or find_worst_crop(predictions[0], target)
    inside = 0 <= top and 0 <= left and top + height <= target.shape[0] and left + width <= target.shape[1]
    if not inside or min(height, width) < 1:
        raise ValueError(
            f"crop {(top, left, height, width)} (top, left, height, width) lies outside of the frame of "
            f"{target.shape[0]}x{target.shape[1]} (height x width)"
        )
    factor = max(1, -(-_SHOWN // min(height, width)))

    def cut(image):
        return image[top : top + height, left : left + width].repeat(factor, 0).repeat(factor, 1)

    columns = [
        [
            put_label(cut(target), f"ground truth, frame {frame}"),
            _overview(target, (top, left, height, width), factor),
        ]
    ]
    for run, prediction in zip(runs, predictions, strict=True):
        below = cut(show_difference(prediction, target))
        columns.append([put_label(cut(prediction), _label(run)), put_label(below, f"difference x{_GAIN}")])
    rows = [_join([column[i] for column in columns], axis=1) for i in range(2)]
    Image.fromarray(_join(rows, axis=0)).save(path)


def show_difference(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the mean difference over the channels of uint8 [H, W, 3], enhanced, as grey uint8 [H, W, 3]."""
    difference = np.abs(prediction.astype(np.float64) - target).mean(axis=-1, keepdims=True)
    return np.minimum(difference * _GAIN, 255).astype(np.uint8).repeat(3, axis=-1)


def find_worst_crop(prediction: np.ndarray, target: np.ndarray) -> tuple[int, int, int, int]:
    """Returns (top, left, height, width) of the square with the largest mean difference of uint8 [H, W, 3]."""
    side = min(_CROP, *target.shape[:2])
    error = np.abs(prediction.astype(np.int64) - target).sum(axis=-1)
    total = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = np.unravel_index(np.argmax(sums), sums.shape)
    return int(top), int(left), side, side


def find_worst_frame(run: Path, clip: str) -> int:
    """Returns the interpolated frame of a clip with the lowest PSNR of Y, or of all if none is interpolated."""
    rows = [row for row in results.read_csv(run / "frames.csv") if row.clip == clip]
    rows = [row for row in rows if not row.is_given] or rows
    return min(rows, key=lambda row: row.scores["psnr_y"]).frame


def _overview(target, crop, factor):
    """The whole frame with the crop framed, as large as an enlarged crop; what does not fit is white."""
    top, left, height, width = crop
    picture = Image.fromarray(target)
    ImageDraw.Draw(picture).rectangle(
        (left, top, left + width - 1, top + height - 1), outline=(255, 0, 0), width=2
    )
    picture.thumbnail((width * factor, height * factor))
    canvas = Image.new("RGB", (width * factor, height * factor), "white")
    canvas.paste(picture)
    return np.asarray(canvas)


def _join(images, *, axis):
    shape = list(images[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, 255, np.uint8)
    parts = [part for image in images for part in (gap, image)][1:]
    return np.concatenate(parts, axis=axis)


def _read_frame(run: Path, folder: str, clip: str, frame: int) -> np.ndarray:
    clips = list(report.read_record(run)["settings"]["dataset"]["clips"])
    file = run / folder / results.file_stem(clips.index(clip), clip) / f"{frame:05d}.png"
    if not file.is_file():
        raise ValueError(f"{run} holds no picture of frame {frame} of {clip}; evaluate with --save_frames")
    return np.asarray(Image.open(file))


def _new_figure(width, height):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            "figures need Matplotlib; install it with: pip install 'stvsr-jax[evaluation]'"
        ) from error
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    return figure, figure.add_subplot()


def _label(run):
    return report.label(report.read_record(run))


def _protocol(run):
    return f"protocol {report.read_record(run)['settings']['protocol']['name']}"


def make_parser() -> argparse.ArgumentParser:
    """Returns the flags."""
    parser = command_line.new_parser("python -m stvsr_jax.evaluation.figures", __doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="folders of evaluations of the same frames")
    add("--out", type=Path, required=True, help="folder for the pictures")
    add("--clip", help="which clip; default: the first")
    add(
        "--frame",
        type=int,
        help="which frame of the crops; default: the worst interpolated one of the first run",
    )
    add(
        "--crop",
        type=int,
        nargs=4,
        metavar=("TOP", "LEFT", "HEIGHT", "WIDTH"),
        help="default: the worst place",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Draws all figures that the runs allow."""
    records = [report.read_record(run) for run in args.runs]
    if len({report.comparable(record) for record in records}) > 1:
        raise ValueError("the runs differ in data set, protocol or ground truth; draw those apart")
    clips = list(records[0]["settings"]["dataset"]["clips"])
    clip = args.clip or clips[0]
    if clip not in clips:
        raise ValueError(f"clip {clip!r} is not one of {', '.join(clips)}")
    args.out.mkdir(parents=True, exist_ok=True)
    draw_psnr_over_time(args.runs, clip, args.out / "psnr_over_time.png")
    draw_quality_and_speed(args.runs, args.out / "quality_and_speed.png")
    if all(record["settings"]["saves_frames"] for record in records):
        frame = find_worst_frame(args.runs[0], clip) if args.frame is None else args.frame
        draw_crops(args.runs, clip, frame, args.out / "crops.png", crop=args.crop and tuple(args.crop))
    elif args.frame is not None or args.crop:
        raise ValueError("crops need runs that were made with --save_frames")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
