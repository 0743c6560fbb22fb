"""Runs a network that `python -m stvsr_jax.export` wrote, without that package: `jax`,
`flatbuffers` and `pillow` do.

    python run_exported.py network.stablehlo first.png second.png OUT

writes OUT/0.png, OUT/1.png ... Every picture must have the size that the network was exported for.
"""

import pathlib
import sys

import jax.export
import numpy as np
from PIL import Image


def main(network, *pictures, out):
    exported = jax.export.deserialize(bytearray(pathlib.Path(network).read_bytes()))
    frames = np.stack([np.asarray(Image.open(picture).convert("RGB")) for picture in pictures])
    video = np.asarray(exported.call(frames))  # uint8 [N, H, W, 3] -> uint8 [T, H', W', 3]
    out = pathlib.Path(out)
    out.mkdir(exist_ok=True)
    for number, image in enumerate(video):
        Image.fromarray(image).save(out / f"{number}.png")


if __name__ == "__main__":
    main(*sys.argv[1:-1], out=sys.argv[-1])
