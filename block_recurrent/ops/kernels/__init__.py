"""Fused attention kernels in Pallas, for GPU (Triton) and TPU (Mosaic).

XLA makes five passes over `W × 2W` attention weights per head and block. Each pass reads them from
memory and writes them back. These kernels never write the weights to memory, neither in the forward
nor in the backward pass. They compute only the columns inside the band: about half of the 2W. They
support the learned bias by distance and its gradient, which cuDNN's attention does not, and also
rotary positions, dropout and document starts. Queries, keys and values keep the layout that the
projections write, ``[B, T, H·K]``.

Read the files in this order: `band` (geometry), `tile` (the maths of one tile), `launch` (block
specs and how kernels are started), `forward`, `backward`, `window_attention` (the differentiable
function, split over devices), `default_tiles` (tile sizes per machine).

The same kernels compute the attention of tokens to states, and of states to states and tokens.
There every query sees all keys of its block, without a band and without a bias.
"""
