"""Values of flags, and flags that several commands have."""

import argparse
import importlib
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from stvsr_jax.weights import shipped


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


def one_of(module: str, name: str, *, default: str | None = None) -> Callable[[str], str]:
    """Returns the type of a flag whose values are the names in a container of another module.

    The module is imported when there is a value to check, so the flag's help has to list the names itself.

    Args:
      module: the full name.
      name: of the container.
      default: the flag's, which argparse checks like a value if none is given: it imports nothing.
    """

    def check(text: str) -> str:
        if text != default and text not in check.list_names():
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(check.list_names())}")
        return text

    check.list_names = lambda: sorted(getattr(importlib.import_module(module), name))
    return check


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Adds --model and --checkpoint, by which users name weights; see `weights.choice.choose`."""
    names = ", ".join(shipped.list_names()) or "none in this package"
    parser.add_argument(
        "--model", metavar="NAME", help=f"weights that ship: {names}; default: by what is asked"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="WEIGHTS",
        help="other weights: a training run, converted weights, a .safetensors file, or hf://USER/REPO",
    )


def add_average(parser: argparse.ArgumentParser) -> None:
    """Adds --weights, by which users name the average of a run's weights or the weights."""
    parser.add_argument(
        "--weights",
        choices=("ema", "raw"),  # those of `checkpoint`, which takes a second to import
        default="ema",
        help="of a run: their average, or as trained; default: ema",
    )


def add_network(parser: argparse._ActionsContainer, flag: str = "--model", **options: Any) -> None:
    """Adds a flag that names a network, not weights; `options` are those of `add_argument`."""
    kind = one_of("stvsr_jax.models", "MODELS")
    parser.add_argument(flag, type=kind, metavar="NETWORK", **options)


def add_dtype(parser: argparse._ActionsContainer, *, default: str) -> None:
    """Adds --dtype, the number format of a network."""
    parser.add_argument(
        "--dtype",
        type=one_of("stvsr_jax.models", "DTYPES", default=default),
        default=default,
        metavar="{bfloat16,float16,float32}",
        help=f"number format of the network; default: {default}",
    )


def add_codec(parser: argparse._ActionsContainer) -> None:
    """Adds --codec, --crf and --preset, by which users say how a video is encoded."""
    add = parser.add_argument
    add(
        "--codec",
        type=one_of("stvsr_jax.video.codecs", "CODECS"),
        metavar="{av1,ffv1,h264,hevc,prores}",
        help="default: h264. Hardware: h264_nvenc, hevc_nvenc, av1_nvenc, h264_qsv, hevc_qsv, h264_videotoolbox or "
        "hevc_videotoolbox",
    )
    add("--crf", type=int, help="quality, smaller is better; default: nearly lossless")
    add(
        "--preset",
        help="speed against size: ultrafast to placebo, 13 to 0 (av1), p1 to p7 (nvenc); default: by codec",
    )


def add_overwrite(parser: argparse._ActionsContainer) -> None:
    """Adds --overwrite, without which nothing that exists is replaced."""
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def add_running(parser: argparse._ActionsContainer) -> None:
    """Adds --tile, --dtype, --batch and --decoder, by which users say how the network runs on a video."""
    add = parser.add_argument
    add("--tile", type=int, help="longest tile side in input pixels; 0: whole frames; default: by memory")
    add(
        "--dtype",
        type=one_of("stvsr_jax.inference.number_format", "CHOICES", default="auto"),
        default="auto",
        metavar="{auto,bfloat16,float16,float32}",
        help="number format of the network; auto, the default: float16 on GPUs, bfloat16 on TPUs, float32 on CPUs",
    )
    add("--batch", type=int, metavar="WINDOWS", help="that go to a device together; default: by their size")
    add(
        "--decoder",
        type=one_of("stvsr_jax.video.hardware_decoding", "DECODERS", default="software"),
        default="software",
        metavar="{software,cuda}",
        help="of the input video; cuda: NVDEC, for H.264, HEVC, VP9 and AV1; the output is the same; default: software",
    )
