"""Arguments of `stvsr benchmark`."""

import argparse

from stvsr_jax import command_line
from stvsr_jax.parsers import values


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Returns the parser; `prog` is what the user typed."""
    parser = command_line.new_parser(prog, "Times a network on this machine's devices.")
    values.add_network(parser, required=True, help="videoinr or zooming_slowmo")
    parser.add_argument("--train", action="store_true", help="a training step: forward, backward and Adam")
    values.add_dtype(parser, default="bfloat16")
    parser.add_argument(
        "--implementation", help="of ops.sine_mlp (videoinr): xla, pallas_triton, pallas_mosaic or pallas_tpu"
    )
    parser.add_argument("--remat", action="store_true", help="recompute in the backward pass, for memory")
    parser.add_argument(
        "--concurrent_kernels",
        action="store_true",
        help="side by side where they can: faster, with more memory",
    )
    for name in ("batch", "frames", "height", "width", "times"):
        parser.add_argument(f"--{name}", type=int, help="default: of the README's table")
    parser.add_argument(
        "--devices",
        type=int,
        help="each gets a batch of its own (weak scaling); default: one, or those of all processes",
    )
    parser.add_argument("--repeats", type=int, default=20, help="how often it is timed; default: 20")
    parser.add_argument(
        "--profile", type=int, default=0, metavar="N", help="also list the N kernels with most time"
    )
    parser.add_argument("--topology", help="compile for TPUs like v5e:2x2 that need not be here; run nothing")
    parser.add_argument("--fsdp", type=int, default=1, help="with --topology: chips that share the state")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    return parser
