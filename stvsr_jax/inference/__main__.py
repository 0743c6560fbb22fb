"""Command line: `python -m stvsr_jax.inference IN OUT --space 4 --time 2`.

Everything that can be wrong with a request is checked before the first frame is computed; what is wrong is
one line on stderr and exit code 2. An error later on is exit code 1, an interruption 130, SIGTERM 143. What is
finished by then waits in `OUT.unfinished`, and the same command goes on from there.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Sequence
from fractions import Fraction

import av
import jax
import tqdm

from stvsr_jax.inference import estimate, inputs, job, predictor, video_encoder, work_folder
from stvsr_jax.inference import request as requests
from stvsr_jax.runtime import compilation
from stvsr_jax.weights import choice

_ERRORS = (ValueError, NotImplementedError, OSError, av.FFmpegError, jax.errors.JaxRuntimeError)


def parse_size(text: str) -> tuple[int, int]:
    """Reads 'WxH' as (H, W)."""
    try:
        width, height = map(int, text.lower().split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, as 1280x720") from error
    return height, width


def parse_shard(text: str) -> tuple[int, int]:
    """Reads 'I/N' as (I, N)."""
    try:
        number, count = map(int, text.split("/"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, as 0/4") from error
    return number, count


def parse_fraction(text: str) -> Fraction:
    """Reads '2', '0.5' or '1/2'."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, as 2, 0.5 or 30000/1001") from error


def parse_rate(text: str) -> Fraction:
    """Reads frames per second; a decimal that is short for 60000/1001, say 59.94 or 59.94005994, is that."""
    rate = parse_fraction(text)
    digits = len(text.partition(".")[2])
    if "." not in text or rate <= 0:
        return rate
    # 24000/1001, 30000/1001 and their multiples, rounded or cut to the digits given.
    ntsc = Fraction(6000, 1001) * round(rate * 1001 / 6000)
    unit = Fraction(1, 10**digits)
    if digits >= 2 and (abs(ntsc - rate) <= unit / 2 or 0 <= ntsc - rate < unit):
        return ntsc
    return rate.limit_denominator(1001) if rate >= 1 else 1 / (1 / rate).limit_denominator(1001)


def make_parser() -> argparse.ArgumentParser:
    """Returns the flags."""
    parser = argparse.ArgumentParser(
        prog="stvsr-upscale",
        description="Enlarges videos and raises their frame rate.",
        allow_abbrev=False,
        usage="%(prog)s [options] INPUT [INPUT ...] OUTPUT",
    )
    add = parser.add_argument
    add(
        "paths",
        type=pathlib.Path,
        nargs="+",
        metavar="PATH",
        help="videos, folders of pictures or folders of videos, and last the output: a video file, or (without "
        "suffix) a folder of PNGs; the folder for them if there are several inputs",
    )
    choice.add_flags(parser)
    add("--weights", choices=("ema", "raw"), default="ema", help="of a run: their average, or as trained")
    add(
        "--info", action="store_true", help="only say what would be done, and time a window; no OUTPUT needed"
    )

    group = parser.add_argument_group("what to make")
    add = group.add_argument
    add("--space", type=float, help="enlargement; any number >= 1 with videoinr; default: 4")
    add("--size", type=parse_size, metavar="WxH", help="size of the output instead of --space")
    add("--time", type=int, help="output frames per input frame; any with videoinr; default: 2")
    add("--fps", type=parse_rate, help="output frames per second instead of --time: 60, 59.94, 60000/1001")
    add("--preview", type=parse_fraction, metavar="SECONDS", help="use only the first seconds of the input")
    add("--max_frames", type=int, help="use only this many input frames")
    add("--input_fps", type=parse_rate, help="rate of a folder of pictures or a raw stream: 25, 30000/1001")
    add(
        "--scene_threshold",
        type=float,
        default=requests.Request.scene_threshold,
        help="smallest change of the picture (0..255) that can be a scene cut; 0 looks for none",
    )
    compare_help = "also write input and output side by side, as .png or video"
    add("--compare", type=pathlib.Path, metavar="FILE", help=compare_help)

    group = parser.add_argument_group("how to write it")
    add = group.add_argument
    add("--codec", choices=sorted(video_encoder.CODECS), default=requests.Request.codec)
    add("--crf", type=int, help="quality, smaller is better; default: nearly lossless")
    add("--pixel_format", choices=video_encoder.PIXEL_FORMATS, help="default: by codec and input")
    add(
        "--suffix",
        help="of the outputs of several inputs, '' for folders of PNGs; default: .mp4, or .mkv, .mov",
    )
    add("--overwrite", action="store_true", help="replace the output if it exists")
    add("--segment", type=int, metavar="FRAMES", help="output frames after which what is done is safe")
    add(
        "--shard",
        type=parse_shard,
        default=(0, 1),
        metavar="I/N",
        help="only every N-th input, from the I-th",
    )

    group = parser.add_argument_group("how to run the network")
    add = group.add_argument
    add("--tile", type=int, help="longest tile side in input pixels; 0: whole frames; default: by memory")
    add("--ensemble", action="store_true", help="mean of four flips: a little better, four times slower")
    add("--dtype", choices=sorted(predictor.DTYPES), help="number format of the network; default: float32")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        args = make_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed its own message
        return int(stop.code or 0)
    try:
        pairs, is_batch = _pair_up(args)
        as_pictures = is_batch and args.suffix == ""
        planned = [(pair, _make_request(args, *pair, as_pictures)) for pair in pairs]
        requests.check(_make_request(args, args.paths[0], args.paths[-1], as_pictures))
        chosen = _choose_weights(args, planned)
        if not planned:
            print("note: shard {}/{} has no input".format(*args.shard), file=sys.stderr)
            return 0
        network = _load(args, chosen)
        if is_batch and not args.info:
            args.paths[-1].mkdir(exist_ok=True)
    except _ERRORS as error:
        return _fail(error, 2)
    replaced = None
    if is_batch and args.overwrite and not args.info:
        replaced = work_folder.Replaced(args.paths[-1], args.shard)
    with _stop_on_signals() as stopped_by:
        code = 0
        for (source, target), request in planned:
            if is_batch:
                is_whole = os.path.exists(target) and not work_folder.is_being_finished(target)
                if is_whole and not (args.overwrite or args.info):
                    print(f"note: {target} exists: {source} is skipped", file=sys.stderr)
                    continue
                print(f"{source} -> {target}" if not args.info else f"{source}", file=sys.stderr)
            code = max(code, _run_one(args, request, network, stopped_by, replaced))
            if stopped_by:
                return 128 + stopped_by[0]
    if replaced and not code:
        replaced.remove()
    return code


def _run_one(args, request, network, stopped_by, replaced):
    """Returns the exit code for one input; `replaced` is that of a batch that overwrites, or None."""
    is_running = False
    try:
        plan = requests.make_plan(request, network.name)
        if args.info:
            for line in estimate.describe(plan) + estimate.measure(plan, network):
                print(line)
            return 0
        if replaced and replaced.holds(request.output, job.identify(plan, network)):
            print(f"note: {request.output} is done already", file=sys.stderr)
            return 0
        files = job.open_files(plan)
        for remark in (*plan.remarks, *job.notes_on(files)):
            print(f"note: {remark}", file=sys.stderr)
        is_running = True
        with tqdm.tqdm(total=plan.output_frames, unit="frame", smoothing=0.1, dynamic_ncols=True) as bar:

            def show(done, is_new):
                bar.initial = bar.initial if is_new else done  # what was done before does not count for speed
                bar.update(done - bar.n)

            notes = job.run(plan, network, files, on_progress=show, should_stop=lambda: bool(stopped_by))
        for remark in notes:
            print(f"note: {remark}", file=sys.stderr)
        if replaced:
            replaced.add(request.output, job.identify(plan, network))
    except job.Stopped as stop:
        print(stop, file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("stopped at once; the same command goes on after the last finished segment", file=sys.stderr)
        return 130
    except Exception as error:  # of any kind: it must not end the other inputs of a batch
        if not isinstance(error, _ERRORS):
            error = f"{type(error).__name__}: {error}"
        if is_running and os.path.exists(waiting := work_folder.path_of(request.output)):
            error = f"{error}; what is finished is in {waiting}, the same command goes on from there"
        return _fail(error, 1 if is_running else 2)
    return 0


def _pair_up(args):
    paths = list(args.paths)
    output = pathlib.Path("out.mp4")
    if len(paths) > 1 and not (args.info and paths[-1].exists()):
        output = paths.pop()
    elif not args.info:
        raise ValueError(f"no output given for {paths[0]}")
    suffix = (
        {"ffv1": ".mkv", "prores": ".mov"}.get(args.codec, ".mp4") if args.suffix is None else args.suffix
    )
    pairs, is_batch = inputs.pair_up(paths, output, suffix=suffix, shard=args.shard)
    if is_batch and not args.info:
        if args.compare:
            raise ValueError("--compare goes with one input")
    return pairs, is_batch


def _make_request(args, source, target, as_pictures):
    names = {field.name for field in dataclasses.fields(requests.Request)} - {
        "input",
        "output",
        "as_pictures",
    }
    given = {name: getattr(args, name) for name in names}
    return requests.Request(source, target, as_pictures=as_pictures, **given)


def _choose_weights(args, planned):
    return choice.choose(
        checkpoint=args.checkpoint,
        model=args.model,
        space=args.space,
        time=args.time,
        size=args.size,
        fps=args.fps,
        is_video=any(source.is_file() for (source, _), _ in planned),
    )


def _load(args, chosen):
    if chosen.remark:
        print(chosen.remark, file=sys.stderr)
    compilation.keep_compiled_programs()
    return predictor.Predictor.from_pretrained(
        chosen.source,
        weights=args.weights,
        dtype=predictor.DTYPES[args.dtype] if args.dtype else None,
        ensemble=args.ensemble,
        devices=jax.local_devices(),
    )


def _fail(error, code):
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _stop_on_signals():
    """Gives a list that is filled with the number of the signal that asks to stop; the second stops at once."""
    received = []

    def handle(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)
        print("\nstopping after this window; once more stops at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield received
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
