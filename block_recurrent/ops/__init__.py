"""Array functions with gradients of their own; everything that knows the hardware is here.

May import `errors` and `types`. The fused attention kernels are in `ops.kernels`.
"""
