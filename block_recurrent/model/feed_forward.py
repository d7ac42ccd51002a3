"""The two-layer feed-forward network."""

from flax import nnx
from jaxtyping import Array, Float

from block_recurrent.model.linear import linear
from block_recurrent.ops.matmul import relu


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
        """The hidden units, which are also the input of the gate after the network."""
        return relu(self.hidden(x))
