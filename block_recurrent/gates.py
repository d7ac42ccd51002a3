"""Gates of the recurrent cell: how a state takes in what a branch has computed (section 3.2).

``gate(x, y, u)``: x is the state, y the branch's output, u the input of the branch's last layer.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float

from block_recurrent.linear import linear


class FixedGate(nnx.Module):
    """x·g + y·(1 − g) with g = σ(b): a learned moving average, the same at every step."""

    def __init__(self, input_size: int, size: int, *, dtype: str = "float32", rngs: nnx.Rngs):
        self.bias = nnx.Param(nnx.initializers.normal(0.1)(rngs.params(), (size,)))

    def __call__(
        self, x: Float[Array, "B S D"], y: Float[Array, "B S D"], u: Float[Array, "B S U"]
    ) -> Float[Array, "B S D"]:
        g = jax.nn.sigmoid(self.bias[...])
        return x * g + y * (1 - g)


class GRUGate(nnx.Module):
    """x·g + y·(1 − g) with g = σ(W u + b + 1)."""

    def __init__(self, input_size: int, size: int, *, dtype: str = "float32", rngs: nnx.Rngs):
        self.gate = gate_linear(input_size, size, dtype, rngs)

    def __call__(
        self, x: Float[Array, "B S D"], y: Float[Array, "B S D"], u: Float[Array, "B S U"]
    ) -> Float[Array, "B S D"]:
        g = jax.nn.sigmoid(self.gate(u) + 1)
        return x * g + y * (1 - g)


class LSTMGate(nnx.Module):
    """x·f + y·i with f = σ(W_f u + b_f + 1) and i = σ(W_i u + b_i − 1)."""

    def __init__(self, input_size: int, size: int, *, dtype: str = "float32", rngs: nnx.Rngs):
        self.forget = gate_linear(input_size, size, dtype, rngs)
        self.input = gate_linear(input_size, size, dtype, rngs)

    def __call__(
        self, x: Float[Array, "B S D"], y: Float[Array, "B S D"], u: Float[Array, "B S U"]
    ) -> Float[Array, "B S D"]:
        f, i = jax.nn.sigmoid(self.forget(u) + 1), jax.nn.sigmoid(self.input(u) - 1)
        return x * f + y * i


def gate_linear(input_size: int, size: int, dtype: str, rngs: nnx.Rngs) -> nnx.Linear:
    """The only layers with a bias; small at first, so that a gate starts near its offset."""
    return linear(
        input_size,
        size,
        use_bias=True,
        dtype=dtype,
        kernel_init=nnx.initializers.variance_scaling(0.1, "fan_in", "truncated_normal"),
        bias_init=nnx.initializers.normal(0.1),
        rngs=rngs,
    )


GATES = {"fixed": FixedGate, "gru": GRUGate, "lstm": LSTMGate}
