"""Array functions with custom gradients, and all code that depends on the hardware.

May import `errors` and `types`. The fused attention kernels are in `ops.kernels`.
"""
