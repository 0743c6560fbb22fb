"""The record of one frame: its clip's name, its number in it, and its tiles."""

import numpy as np
import tensorflow_datasets as tfds

from stvsr_jax.data import tiles

FEATURES = tfds.features.FeaturesDict(
    {
        "clip": tfds.features.Text(),
        "frame": np.int32,
        "tiles": tfds.features.Sequence({"webp": tfds.features.Tensor(shape=(), dtype=np.object_)}),
    }
)


def serialize(clip: str, frame: int, image: np.ndarray) -> bytes:
    """Returns the record of frame number `frame` of `clip`; `image` is uint8 [H, W, 3] RGB."""
    return FEATURES.serialize_example(
        {"clip": clip, "frame": frame, "tiles": [{"webp": tile} for tile in tiles.encode(image)]}
    )
