"""The record of one frame: its clip's name, its number in it, and the frame as in `tile_codec`."""

import numpy as np
import tensorflow_datasets as tfds

from stvsr_jax.video import tile_codec

FEATURES = tfds.features.FeaturesDict(
    {
        "clip": tfds.features.Text(),
        "frame": np.int32,
        "tiles": tfds.features.Tensor(shape=(), dtype=np.object_),
    }
)


def serialize(clip: str, frame: int, image: np.ndarray) -> bytes:
    """Returns the record of frame number `frame` of `clip`; `image` is uint8 [H, W, 3] RGB."""
    tiles = tile_codec.encode(image.transpose(2, 0, 1), "rgb")
    return FEATURES.serialize_example({"clip": clip, "frame": frame, "tiles": tiles})
