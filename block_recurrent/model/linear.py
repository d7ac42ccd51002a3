"""The linear layer of the package: `flax.nnx.Linear` with the gradient of `ops.matmul`."""

from flax import nnx

from block_recurrent.ops.matmul import matmul


def linear(inputs: int, outputs: int, *, dtype: str, rngs: nnx.Rngs, **options) -> nnx.Linear:
    """x W, without a bias unless `use_bias` is given."""
    options = {"use_bias": False} | options
    return nnx.Linear(inputs, outputs, dtype=dtype, dot_general=_dot_general, rngs=rngs, **options)


def _dot_general(x, kernel, dimension_numbers, precision=None, out_sharding=None):
    """Called by `nnx.Linear`, always to contract the last axis of x with the kernel's first."""
    return matmul(x, kernel)
