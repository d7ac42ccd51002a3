"""The two-layer feed-forward network."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from block_recurrent.linear import linear


class FeedForward(nnx.Module):
    """relu(x W₁) W₂, without biases."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        self.hidden = linear(input_size, hidden_size, dtype=dtype, rngs=rngs)
        self.output = linear(hidden_size, output_size, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*axes D"]) -> Float[Array, "*axes D"]:
        return self.output(self.activations(x))

    def activations(self, x: Float[Array, "*axes D"]) -> Float[Array, "*axes F"]:
        """The hidden units: what a gate looks at."""
        return relu(self.hidden(x))


@jax.custom_vjp
def relu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """max(x, 0), whose gradient keeps the result, which the layer above keeps anyway, not x."""
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = relu(x)
    return y, y


def _relu_backward(y, gradient):
    return (jnp.where(y > 0, gradient, 0),)


relu.defvjp(_relu_forward, _relu_backward)
