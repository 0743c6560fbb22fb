"""Convolution with its prologue and epilogue."""

from stvsr_jax.ops.conv.api import conv2d, conv2d_deferred, conv2d_kernel_gradient, prefers_stacks

__all__ = ["conv2d", "conv2d_deferred", "conv2d_kernel_gradient", "prefers_stacks"]
