"""The published PyTorch weights as parameters of these networks.

Only the tensors' names and layouts are mapped: convolution kernels OIHW -> HWIO, linear weights
transposed, residual blocks stacked along a leading axis. A leftover, missing or misshapen tensor is
an error.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from stvsr_jax import models

# The published VideoINR carries Zooming Slow-Mo's output head, which it never uses.
UNUSED = {
    "zooming_slowmo": frozenset(),
    "videoinr": frozenset(
        f"{layer}.{part}"
        for layer in ("upconv1", "upconv2", "HRconv", "conv_last")
        for part in ("weight", "bias")
    ),
}


def convert(name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Maps published tensors to parameters.

    Args:
      name: 'zooming_slowmo' or 'videoinr'.
      tensors: published tensor name -> array, PyTorch layouts.

    Returns:
      The parameter tree of `models.build(name)`, float32 numpy arrays.

    Raises:
      ValueError: a tensor is left over, missing, of a wrong shape or not finite; each is named.
    """
    shapes = parameter_shapes(name)
    sources: dict[tuple, list[str]] = {}
    for source, target in tensor_map(name):
        sources.setdefault(target, []).append(source)

    expected = {source for names in sources.values() for source in names}
    _check_names(name, set(tensors), expected)

    params, wrong = {}, []
    for target, names in sources.items():
        arrays = [_to_flax_layout(np.asarray(tensors[n], np.float32)) for n in names]
        shape = shapes[target].shape
        stacked = "blocks" in target
        want = shape[1:] if stacked else shape
        wrong += [f"{n} {tensors[n].shape}" for n, a in zip(names, arrays, strict=True) if a.shape != want]
        wrong += [f"{n} (not finite)" for n, a in zip(names, arrays, strict=True) if not np.isfinite(a).all()]
        if not wrong:
            params[target] = np.stack(arrays) if stacked else arrays[0]
    if wrong:
        raise ValueError(f"{name}: tensors of a wrong shape or value: {', '.join(wrong)}")
    return flax.traverse_util.unflatten_dict(params)


def parameter_shapes(name: str) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """Returns path -> shape of the published-size network's parameters, computing nothing."""
    tree = jax.eval_shape(lambda key: models.init_params(models.build(name), key), jax.random.key(0))
    return flax.traverse_util.flatten_dict(tree)


def tensor_map(name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields (published tensor name, parameter path); stacked parameters repeat their path in order."""
    for source, target in _layer_map(name):
        bias = "bias"
        if target[-1].startswith("kernel"):  # SIREN layers: kernel0 and bias0 in one scope
            *scope, kernel = target
            bias = kernel.replace("kernel", "bias")
        else:
            scope, kernel = list(target), "kernel"
        yield f"{source}.weight", (*scope, kernel)
        yield f"{source}.bias", (*scope, bias)


def _layer_map(name):
    yield from _encoder_layers()
    if name == "zooming_slowmo":
        for source, target in (
            ("upconv1", "up1"),
            ("upconv2", "up2"),
            ("HRconv", "refine"),
            ("conv_last", "to_rgb"),
        ):
            yield source, (target,)
    else:
        for source, target, layers in (("feat", "space", 4), ("flow", "motion", 4), ("encode", "colour", 5)):
            for i in range(layers):
                linear = ".linear" if i < layers - 1 else ""
                yield f"{source}_imnet.net.{i}{linear}", (target, f"kernel{i}")


def _encoder_layers():
    yield "conv_first", ("encoder", "conv_first")
    for source, target, blocks in (("feature_extraction", "front", 5), ("recon_trunk", "back", 40)):
        for block in range(blocks):
            for conv in ("conv1", "conv2"):
                yield f"{source}.{block}.{conv}", ("encoder", target, "blocks", conv)
    yield from _pyramid_layers("", ("encoder", "pyramid"))
    yield from _fusion_layers("", ("encoder", "interpolate"))
    for state, ours in (("pcd_h", "hidden"), ("pcd_c", "cell")):
        source = f"ConvBLSTM.forward_net.{state}."
        yield from _pyramid_layers(source, ("encoder", "conv_lstm", "cell", f"pyramid_{ours}"))
        yield from _fusion_layers(source, ("encoder", "conv_lstm", "cell", f"fusion_{ours}"))
    yield "ConvBLSTM.forward_net.cell_list.0.conv", ("encoder", "conv_lstm", "cell", "gates")
    yield "ConvBLSTM.conv_1x1", ("encoder", "conv_lstm", "merge")


def _pyramid_layers(source, target):
    for level in (2, 3):
        for conv in (1, 2):
            yield f"{source}fea_L{level}_conv{conv}", (*target, f"level{level}_conv{conv}")


def _fusion_layers(source, target):
    for suffix, align in ((1, "align_a"), (2, "align_b")):
        for level in (3, 2, 1):
            for i in range(1, 3 if level == 3 else 4):
                yield (
                    f"{source}pcd_align.L{level}_offset_conv{i}_{suffix}",
                    (*target, align, f"level{level}_offset{i}"),
                )
            deform = f"{source}pcd_align.L{level}_dcnpack_{suffix}"
            yield deform, (*target, align, f"level{level}_deform")
            yield f"{deform}.conv_offset_mask", (*target, align, f"level{level}_deform", "head")
            if level < 3:
                yield f"{source}pcd_align.L{level}_fea_conv_{suffix}", (*target, align, f"level{level}_merge")
    yield f"{source}fusion", (*target, "fuse")


def _to_flax_layout(array):
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array


def _check_names(name, given, expected):
    problems = []
    if missing := sorted(expected - given):
        problems.append(f"missing: {_some(missing)}")
    if leftover := sorted(given - expected - UNUSED[name]):
        problems.append(f"left over: {_some(leftover)}")
    if problems:
        raise ValueError(f"the tensors are not those of {name}: {'; '.join(problems)}")


def _some(names, limit=8):
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
