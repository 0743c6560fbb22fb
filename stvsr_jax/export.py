"""Writes a network as a StableHLO file that runs without this package.

    python -m stvsr_jax.export network.stablehlo --size 320x180 --space 4 --time 2

The file holds the program and its parameters (`jax.export`), for one size of frames, for CPUs, NVIDIA GPUs and
TPUs. It takes one window, uint8 [N, H, W, 3] (4 frames for Zooming Slow-Mo, 2 for VideoINR), and gives the frames
in it and between, uint8 [T, H', W', 3]; examples/run_exported.py loads and runs it. JAX needs the
`flatbuffers` package for both (the extra `export`).
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from stvsr_jax import command_line, models
from stvsr_jax.files import replacing
from stvsr_jax.inference import predictor, programs, request, tiling
from stvsr_jax.ops.devices import without_kernels
from stvsr_jax.parsers.export import make_parser
from stvsr_jax.weights import choice, sources

PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    name: str,
    model: nn.Module,
    params: Any,
    *,
    size: tuple[int, int],
    space: float,
    time: int,
    platforms: Sequence[str] = PLATFORMS,
) -> jax.export.Exported:
    """Exports a network for one size of frames.

    Args:
      name: a key of `models.MODELS`.
      model: the flax module.
      params: its parameters, which become part of the program.
      size: (H, W) of the frames.
      space: enlargement.
      time: outputs per input frame; the last frame of the window comes once.
      platforms: of PLATFORMS.

    Returns:
      A function from uint8 [N, H, W, 3] to uint8 [(N - 1) * time + 1, H', W', 3].

    Raises:
      ValueError: the network cannot do that.
    """
    predictor.check_request(name, space=space, time=time)
    height, width = size
    if min(size) < 1:
        raise ValueError(f"size={width}x{height} must be at least 1x1")
    contract = models.contract_of(name)
    count = contract.window_size
    times = np.arange((count - 1) * time + 1, dtype=np.float32) / time
    out_height, out_width = predictor.output_size(height, width, space)
    if max(height, width, out_height, out_width) > request.LARGEST_SIDE:
        raise ValueError(f"frames of {width}x{height} that become {out_width}x{out_height} are too large")

    def run(frames):
        pad = [(0, -side % tiling.MULTIPLE) for side in size]
        padded = jnp.pad(frames, ((0, 0), *pad, (0, 0)), mode="edge")
        unit = programs.to_unit(padded)[None]
        full = programs.padded_out_size(padded.shape[1:3], size, (out_height, out_width))
        grid = contract.make_grid(full, whole_size=(out_height, out_width))
        encoded = model.apply({"params": params}, unit, method="encode")
        options = dict(out_size=full, grid=grid, method="decode")
        rendered = jax.lax.map(
            lambda t: model.apply({"params": params}, encoded, t.reshape(1, 1), **options)[0, 0],
            jnp.asarray(times / (count - 1)),
        )
        return programs.to_uint8(rendered[:, :out_height, :out_width])

    frames = jax.ShapeDtypeStruct((count, height, width, 3), jnp.uint8)
    with without_kernels():
        return jax.export.export(jax.jit(run), platforms=list(platforms))(frames)


def run(args: argparse.Namespace) -> None:
    """Writes the file that the command line asks for."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError("the flatbuffers package is missing: pip install 'stvsr-jax[export]'")
    if args.output.exists() and not args.overwrite:
        raise ValueError(f"output {args.output} exists; --overwrite replaces it")
    if not args.output.name or args.output.exists() and not args.output.is_file():
        raise ValueError(f"output {args.output} is no file")
    if not args.output.parent.is_dir():
        raise ValueError(f"output folder {args.output.parent} does not exist")
    chosen = choice.choose(checkpoint=args.checkpoint, model=args.model, space=args.space, time=args.time)
    if chosen.remark:
        print(chosen.remark, file=sys.stderr)
    loaded = sources.load(chosen.source, weights=args.weights)
    exported = export(
        loaded.model_name,
        models.build(loaded.model_name, **loaded.model_kwargs),
        loaded.params,
        size=args.size,
        space=args.space,
        time=args.time,
        platforms=args.platform or PLATFORMS,
    )
    with replacing(args.output) as draft:
        draft.write_bytes(exported.serialize())
    print(
        f"{args.output}: {exported.in_avals[0]} -> {exported.out_avals[0]}, for {', '.join(exported.platforms)}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser("python -m stvsr_jax.export"), run, argv)


if __name__ == "__main__":
    sys.exit(main())
