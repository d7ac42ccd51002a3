"""The linear layer of the package: `flax.nnx.Linear`, with a gradient that XLA computes faster."""

from flax import nnx

from block_recurrent.ops.matmul import matmul


def linear(inputs: int, outputs: int, *, dtype: str, rngs: nnx.Rngs, **options) -> nnx.Linear:
    """x W, without a bias unless asked for."""
    options = {"use_bias": False} | options
    return nnx.Linear(inputs, outputs, dtype=dtype, dot_general=_dot_general, rngs=rngs, **options)


def _dot_general(x, kernel, dimension_numbers, precision=None, out_sharding=None):
    """What `nnx.Linear` calls: always the last axis of x by the first of the kernel."""
    return matmul(x, kernel)
