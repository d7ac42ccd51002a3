"""The norm, the linear layer and the feed-forward network, shared by all layers and the cell."""

import functools

import jax
from flax import nnx
from jaxtyping import Array, Float

from block_recurrent.ops.matmul import matmul, relu
from block_recurrent.ops.normalize import EPSILON, rms_normalize


class RMSNorm(nnx.RMSNorm):
    """x / RMS(x), times a learned scale: Flax's module, with the custom gradient in `ops`."""

    def __init__(
        self, size: int, *, dtype: str = "float32", param_dtype: str = "float32", rngs: nnx.Rngs
    ):
        super().__init__(size, epsilon=EPSILON, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*axes D"]) -> Float[Array, "*axes D"]:
        return rms_normalize(x, self.scale[...]).astype(self.dtype)


def linear(inputs: int, outputs: int, *, rngs: nnx.Rngs, **options) -> nnx.Linear:
    """A linear layer, x W, without a bias unless `use_bias` is given."""
    options = {"use_bias": False} | options
    return nnx.Linear(inputs, outputs, dot_general=_dot_general, rngs=rngs, **options)


def _dot_general(x, kernel, dimension_numbers, precision=None, out_sharding=None):
    """Product of x and kernel for `nnx.Linear`, which always contracts x's last axis."""
    return matmul(x, kernel)


class FeedForward(nnx.Module):
    """relu(x W₁) W₂, without biases; or, `gated`, (silu(x W₁) ⊙ x W₃) W₂ (SwiGLU, Shazeer 2020).

    A gated network has two thirds of the hidden units, rounded down to a multiple of 8, but at
    least 8: about the same number of parameters.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        gated: bool = False,
        dtype: str = "float32",
        param_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        if gated:
            hidden_size = max(8, hidden_size // 12 * 8)
        dense = functools.partial(linear, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.hidden = dense(input_size, hidden_size)
        self.factor = dense(input_size, hidden_size) if gated else None
        self.output = dense(hidden_size, output_size)

    def __call__(self, x: Float[Array, "*axes D"]) -> Float[Array, "*axes D"]:
        return self.output(self.activations(x))

    def activations(self, x: Float[Array, "*axes D"]) -> Float[Array, "*axes F"]:
        """The hidden units, which are also the input of the gate after the network."""
        if self.factor is None:
            return relu(self.hidden(x))
        return jax.nn.silu(self.hidden(x)) * self.factor(x)
