"""The two networks, by name."""

import flax.linen as nn

from stvsr_jax.models.videoinr import VideoINR
from stvsr_jax.models.zooming_slowmo import ZoomingSlowMo

MODELS = {"zooming_slowmo": ZoomingSlowMo, "videoinr": VideoINR}


def build(name: str, **kwargs) -> nn.Module:
    """Returns a network; without further arguments it has the published sizes.

    Args:
      name: 'zooming_slowmo' or 'videoinr'.
      **kwargs: fields of the module (features, front_blocks, back_blocks, groups, remat, dtype, ...).

    Raises:
      ValueError: unknown name or field, or features that do not divide by the offset groups.
    """
    if name not in MODELS:
        raise ValueError(f"model {name!r} is not one of {sorted(MODELS)}")
    fields = {key for key in MODELS[name].__dataclass_fields__ if key not in ("parent", "name")}
    unknown = set(kwargs) - fields
    if unknown:
        raise ValueError(f"model {name!r} has no field {sorted(unknown)}; its fields are {sorted(fields)}")
    model = MODELS[name](**kwargs)
    if model.features % model.groups:
        raise ValueError(f"features={model.features} must divide by the groups={model.groups} of the offsets")
    return model


__all__ = ["MODELS", "VideoINR", "ZoomingSlowMo", "build"]
