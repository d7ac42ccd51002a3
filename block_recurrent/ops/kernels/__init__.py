"""Attention of tokens and states by fused kernels, in Pallas, for GPU (Triton) and TPU (Mosaic).

XLA makes five passes over `W × 2W` weights per head and block, and each pass writes them to memory
and reads them again. These kernels never write them, neither in the forward pass nor in the
gradient, and compute only what the band leaves of the 2W columns, about half. They know the learned
bias by distance and sum its gradient, which cuDNN's attention does not; they also know rotary
positions, dropout and document starts. Queries, keys and values stay where the projections leave
them, ``[B, T, H·K]``.

Read them in this order: `band` (geometry, and the maths of one tile), `launch` (how programs find
their operands), `forward`, `backward`, `window_attention` (the differentiable function, split over
devices), `default_tiles` (tile sizes per machine).

The same kernels also let tokens read states, and states read states and tokens. There every query
sees every key of its block: no band, no bias.
"""
