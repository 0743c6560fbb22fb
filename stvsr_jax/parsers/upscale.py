"""Arguments of `stvsr upscale`."""

import argparse
import pathlib

from stvsr_jax import command_line
from stvsr_jax.parsers import values


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Returns the parser; `prog` is what the user typed."""
    parser = command_line.new_parser(
        prog,
        "Enlarges videos and raises their frame rate.",
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
    values.add_weights(parser)
    values.add_average(parser)
    add(
        "--info", action="store_true", help="only say what would be done, and time a window; no OUTPUT needed"
    )

    group = parser.add_argument_group("what to make")
    add = group.add_argument
    add("--space", type=float, help="enlargement; any number >= 1 with videoinr; default: 4")
    add("--size", type=values.parse_size, metavar="WxH", help="size of the output instead of --space")
    add("--time", type=int, help="output frames per input frame; any with videoinr; default: 2")
    add(
        "--fps",
        type=values.parse_rate,
        help="output frames per second instead of --time: 60, 59.94, 60000/1001",
    )
    add(
        "--preview",
        type=values.parse_fraction,
        metavar="SECONDS",
        help="use only the first seconds of the input",
    )
    add("--max_frames", type=int, help="use only this many input frames")
    add(
        "--input_fps",
        type=values.parse_rate,
        help="rate of a folder of pictures or a raw stream: 25, 30000/1001",
    )
    add(
        "--scene_threshold",
        type=float,
        help="smallest change of the picture (0..255) that can be a scene cut; 0 looks for none",
    )
    compare_help = "also write input and output side by side, as .png or video"
    add("--compare", type=pathlib.Path, metavar="FILE", help=compare_help)

    group = parser.add_argument_group("how to write it")
    add = group.add_argument
    values.add_codec(group)
    add(
        "--pixel_format",
        type=values.one_of("stvsr_jax.video.codecs", "PIXEL_FORMATS"),
        metavar="FORMAT",
        help="bgr0, gbrp10le, gbrp16le, yuv420p, yuv422p, yuv444p, yuv420p10le, yuv422p10le, yuv444p10le, nv12 or "
        "p010le; "
        "default: by codec and input",
    )
    add(
        "--suffix",
        help="of the outputs of several inputs, '' for folders of PNGs; default: .mp4, or .mkv, .mov",
    )
    values.add_overwrite(group)
    add("--segment", type=int, metavar="FRAMES", help="output frames after which what is done is safe")
    add(
        "--shard",
        type=values.parse_shard,
        default=(0, 1),
        metavar="I/N",
        help="only every N-th input, from the I-th",
    )

    group = parser.add_argument_group("how to run the network")
    values.add_running(group)
    group.add_argument(
        "--ensemble", action="store_true", help="mean of four flips: a little better, four times slower"
    )
    return parser
