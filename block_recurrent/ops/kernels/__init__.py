"""Attention of tokens and states by fused kernels, for GPU (Triton) and TPU (Mosaic), in Pallas.

What XLA does in five passes over `W × 2W` weights a head and block, each written to memory and read
again, these kernels do without writing any, in forward and gradient; and of the 2W columns they
compute only what the band leaves, about half. They know the learned bias by distance and sum its
gradient, which cuDNN's attention does not; rotary positions, dropout and document starts too.
Queries, keys and values stay where the projections leave them, ``[B, T, H·K]``.

In reading order: `band` (geometry, and the mathematics of one tile), `launch` (how programs find
their operands), `forward`, `backward`, `window_attention` (the differentiable function, split over
devices), `default_tiles` (what the platform takes).

The same kernels serve tokens that read states, and states that read states and tokens: there every
query sees every key of its block, with neither band nor bias.
"""
