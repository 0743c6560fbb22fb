"""Command line: `python -m stvsr_jax.inference IN OUT --checkpoint DIR --space 4 --time 2`.

Everything that can be wrong with a request is checked before the first frame is computed; what is wrong is
one line on stderr and exit code 2. An error later on is exit code 1, an interruption 130;
neither leaves a file.
"""

import argparse
import contextlib
import math
import pathlib
import sys
from collections.abc import Sequence
from fractions import Fraction

import av
import jax
import jax.numpy as jnp
import tqdm
from etils import epath
from PIL import Image

from stvsr_jax import compilation, models
from stvsr_jax.data import scene_cuts
from stvsr_jax.inference import compare, pipeline, predictor, video_reader, video_writer

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def make_parser() -> argparse.ArgumentParser:
    """Returns the flags."""
    parser = argparse.ArgumentParser(
        prog="stvsr-upscale", description="Enlarges a video and raises its frame rate.", allow_abbrev=False
    )
    add = parser.add_argument
    add("input", type=pathlib.Path, help="video file, or folder of pictures")
    add("output", type=pathlib.Path, help="video file, or (without suffix) folder of PNGs")
    add("--checkpoint", type=epath.Path, required=True, help="folder of a trained or converted model")
    add("--weights", choices=("ema", "raw"), default="ema", help="of a run: their average, or as trained")
    add("--space", type=float, default=4.0, help="enlargement; any number >= 1 with videoinr")
    add("--time", type=int, default=2, help="output frames per input frame; any with videoinr")
    add("--tile", type=int, help="longest tile side in input pixels; 0: whole frames; default: by memory")
    add("--dtype", choices=sorted(_DTYPES), help="number format of the network; default: float32")
    add("--codec", choices=sorted(video_writer.CODECS), default="h264")
    add("--crf", type=int, help="quality, smaller is better; default: nearly lossless")
    add("--overwrite", action="store_true", help="replace the output if it exists")
    add("--max_frames", type=int, help="use only this many input frames")
    add("--preview", type=Fraction, metavar="SECONDS", help="use only the first seconds of the input")
    add(
        "--scene_threshold",
        type=float,
        default=scene_cuts.DEFAULT_THRESHOLD,
        help="smallest change of the picture (0..255) that can be a scene cut; 0 looks for none",
    )
    add("--input_fps", type=Fraction, help="rate of a folder of pictures or a raw stream: 25, 30000/1001")
    add(
        "--compare",
        type=pathlib.Path,
        metavar="FILE",
        help="also write input and output side by side, as .png or video",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    try:
        args = make_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed its own message
        return int(stop.code or 0)
    is_running = False
    try:
        with contextlib.ExitStack() as stack:  # completes the files, or removes them after an error
            prepared = _prepare(args, stack)
            is_running = True
            _run(args, *prepared)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    except (ValueError, NotImplementedError, OSError, av.FFmpegError, jax.errors.JaxRuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if is_running else 2
    return 0


def _prepare(args, stack):
    """Checks everything and opens everything.

    Returns:
      VideoInfo; Predictor; whether a frame in two windows is taken from the earlier; what takes the outputs.
    """
    _check_numbers(args)
    info = video_reader.probe(args.input, rate=args.input_fps)
    for target in filter(None, (args.output, args.compare)):
        if target.resolve() == args.input.resolve():
            raise ValueError(f"output {target} is the input")
        video_writer.check_target(target, overwrite=args.overwrite)
    if args.compare and args.compare.resolve() == args.output.resolve():
        raise ValueError(f"--compare {args.compare} is the output")
    network, keep_earlier = _load(args)
    sinks = [_open_output(args, info, stack)]
    if args.compare:
        sinks.append(_open_comparison(args, info, stack))
    for remark in describe(info):
        print(f"note: {remark}", file=sys.stderr)
    return info, network, keep_earlier, sinks


def _check_numbers(args):
    for name in ("max_frames", "preview", "input_fps"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value} must be positive")
    if not 0 <= args.scene_threshold <= 255:
        raise ValueError(f"scene_threshold={args.scene_threshold} must lie in [0, 255]")
    video_writer.encoder_options(args.codec, args.crf)
    if not args.checkpoint.is_dir():
        raise ValueError(f"checkpoint {args.checkpoint} is not a folder")


def _load(args):
    """Returns (Predictor, whether a shared frame is taken from the earlier window)."""
    from stvsr_jax import checkpoint  # heavy, and needed only when the request itself makes sense

    compilation.keep_compiled_programs()
    loaded = checkpoint.load_for_inference(args.checkpoint, weights=args.weights)
    predictor.check_request(loaded.model_name, space=args.space, time=args.time)
    kwargs = dict(loaded.model_kwargs)
    if args.dtype:
        kwargs["dtype"] = _DTYPES[args.dtype]
    model = models.build(loaded.model_name, **kwargs)
    network = predictor.Predictor(loaded.model_name, model, loaded.params, tile=args.tile)
    return network, predictor.KEEP_EARLIER[loaded.model_name]


def _open_output(args, info, stack):
    if video_writer.is_picture_folder(args.output):
        writer = video_writer.PictureWriter(args.output)
    else:
        writer = video_writer.VideoWriter(
            args.output,
            video_format(info, args, columns=1),
            source=None if info.pictures else args.input,
            origin=info.origin,
            is_trimmed=args.max_frames is not None or args.preview is not None,
        )
        for note in writer.notes:
            print(f"note: {note}", file=sys.stderr)
    stack.enter_context(writer)
    return lambda output, offset, source: writer.write(output.image, output.time, output.duration)


def _open_comparison(args, info, stack):
    if args.compare.suffix.lower() != ".png":
        writer = stack.enter_context(
            video_writer.VideoWriter(args.compare, video_format(info, args, columns=2))
        )

        def add(output, offset, source):
            joined = compare.side_by_side(output.image, source.image, "output")
            writer.write(joined, output.time, output.duration)

        return add

    count = expected_frames(info, args)
    collector = compare.PictureOfTwoMoments(count // 2)

    def save(kind, error, traceback):
        if kind is None:
            partial = args.compare.with_name(f".{args.compare.stem}.partial.png")
            Image.fromarray(collector.render()).save(partial)
            partial.replace(args.compare)

    stack.push(save)
    return collector.add


def _run(args, info, network, keep_earlier, sinks):
    frames = video_reader.read_frames(info, limit=args.max_frames, seconds=args.preview)
    outputs = pipeline.upscale(
        frames,
        lambda images, times: network.predict(images, times, space=args.space),
        window_size=network.window_size,
        time=args.time,
        keep_earlier=keep_earlier,
        scene_threshold=args.scene_threshold,
    )
    total = expected_frames(info, args) * args.time
    for output in tqdm.tqdm(outputs, total=total, unit="frame", smoothing=0.1, dynamic_ncols=True):
        for sink in sinks:
            sink(*output)


def video_format(
    info: video_reader.VideoInfo, args: argparse.Namespace, *, columns: int
) -> video_writer.VideoFormat:
    """Returns what to write for an input, `columns` pictures wide."""
    height, width = predictor.output_size(info.height, info.width, args.space)
    rate = info.rate * args.time
    return video_writer.VideoFormat(
        height,
        width * columns,
        rate=rate,
        time_base=1 / rate if info.is_constant_rate else info.time_base / args.time,
        codec=args.codec,
        crf=args.crf,
        colour_tags=info.colour_tags,
        sample_aspect_ratio=info.sample_aspect_ratio,
        metadata=info.metadata,
        language=info.language,
    )


def expected_frames(info: video_reader.VideoInfo, args: argparse.Namespace) -> int:
    """Returns how many input frames will be read, as far as can be known."""
    counts = [info.frame_count]
    if args.max_frames is not None:
        counts.append(args.max_frames)
    if args.preview is not None:
        counts.append(math.ceil(args.preview * info.rate))
    return max(1, min(counts))


def describe(info: video_reader.VideoInfo) -> list[str]:
    """Returns remarks on what the output cannot keep of an input."""
    remarks = []
    if not info.is_constant_rate:
        remarks.append("the frame rate varies: output frames keep the times of the input")
    if info.is_interlaced:
        remarks.append("the input is interlaced; deinterlace it first for a clean result")
    if info.bit_depth > 8:
        remarks.append(f"the input has {info.bit_depth} bits per component; the output has 8")
    return remarks


if __name__ == "__main__":
    sys.exit(main())
