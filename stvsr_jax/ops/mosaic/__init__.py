"""Pieces that the kernels for NVIDIA Hopper GPUs share (Pallas, Mosaic GPU lowering)."""
