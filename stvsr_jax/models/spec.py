"""A network's name and sizes, as checkpoints and published weights record them."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax

from stvsr_jax import models

# Fields of the modules that the parameters do not depend on.
_RUN_FIELDS = ("parent", "name", "dtype", "remat", "implementation")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A network by name and module fields, as a checkpoint records it.

    Attributes:
      name: a key of `models.MODELS`.
      fields: keyword arguments of `models.build`, without dtype: it is no property of the weights.
    """

    name: str
    fields: dict[str, Any]

    def build(self, **overrides) -> nn.Module:
        """Returns the module, with some fields replaced."""
        return models.build(self.name, **{**self.fields, **overrides})

    def architecture(self) -> dict[str, Any]:
        """Returns the fields that the parameters depend on, defaults filled in.

        So two specs are compared: one may leave out a default, and may have been written when it had fewer fields.
        """
        model = self.build()
        return {f: getattr(model, f) for f in model.__dataclass_fields__ if f not in _RUN_FIELDS}


@dataclasses.dataclass(frozen=True)
class Restored:
    """Parameters and the network they belong to.

    Attributes:
      model_name: a key of `models.MODELS`.
      model_kwargs: keyword arguments of `models.build`.
      params: the parameter tree.
      step: training steps behind it.
    """

    model_name: str
    model_kwargs: dict[str, Any]
    params: Any
    step: int


@functools.lru_cache(maxsize=8)  # tracing takes half a second
def param_shapes(model: nn.Module) -> Any:
    """Returns the shape and dtype of each parameter of a network as a tree, computing nothing."""
    return jax.eval_shape(lambda key: models.init_params(model, key), jax.random.key(0))
