"""Gates of the recurrent cell: how much of the old state and of a branch's output to use.

``gate(x, y, u) = x·keep + y·take`` (section 3.2 of the paper). x is the state, y the output of the
branch, and u the input of its last layer, from which all gates but the fixed one compute `keep` and
`take`.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from block_recurrent.model.feed_forward import linear


class Gate(nnx.Module):
    """x·keep + y·take, with keep and take from the `multipliers` of the subclass."""

    def __call__(
        self, x: Float[Array, "B S D"], y: Float[Array, "B S D"], u: Float[Array, "B S U"]
    ) -> Float[Array, "B S D"]:
        keep, take = self.multipliers(u)
        return x * keep + y * take


class FixedGate(Gate):
    """keep = σ(b), take = 1 − keep: a learned moving average, the same at every step."""

    def __init__(
        self,
        input_size: int,
        size: int,
        *,
        dtype: str = "float32",
        param_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        self.bias = nnx.Param(nnx.initializers.normal(0.1)(rngs.params(), (size,), param_dtype))

    def multipliers(self, u: Float[Array, "B S U"]) -> tuple[Float[Array, " D"], ...]:
        g = jax.nn.sigmoid(jnp.asarray(self.bias[...], jnp.float32))
        return g, 1 - g


class GRUGate(Gate):
    """keep = σ(W u + b + 1), take = 1 − keep."""

    def __init__(
        self,
        input_size: int,
        size: int,
        *,
        dtype: str = "float32",
        param_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        self.gate = gate_linear(input_size, size, dtype, param_dtype, rngs)

    def multipliers(self, u: Float[Array, "B S U"]) -> tuple[Float[Array, "B S D"], ...]:
        g = jax.nn.sigmoid(self.gate(u) + 1)
        return g, 1 - g


class LSTMGate(Gate):
    """keep = σ(W_f u + b_f + 1), take = σ(W_i u + b_i − 1)."""

    def __init__(
        self,
        input_size: int,
        size: int,
        *,
        dtype: str = "float32",
        param_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        self.forget = gate_linear(input_size, size, dtype, param_dtype, rngs)
        self.input = gate_linear(input_size, size, dtype, param_dtype, rngs)

    def multipliers(self, u: Float[Array, "B S U"]) -> tuple[Float[Array, "B S D"], ...]:
        return jax.nn.sigmoid(self.forget(u) + 1), jax.nn.sigmoid(self.input(u) - 1)


class SelectiveGate(Gate):
    """take = (1 − σ(b)) · σ(w·u / 4√U + 3), keep = 1 − take: each state vector may keep itself.

    The learned moving average of a `FixedGate`, with a factor per state vector that can close the
    gate over input that is not worth storing. At first, all factors are near σ(3) = 0.95. Without
    the division, w·u would change so fast in training that on text the gate closes for good.
    Not part of the paper.
    """

    def __init__(
        self,
        input_size: int,
        size: int,
        *,
        dtype: str = "float32",
        param_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        self.bias = nnx.Param(nnx.initializers.normal(0.1)(rngs.params(), (size,), param_dtype))
        self.gate = gate_linear(input_size, 1, dtype, param_dtype, rngs, use_bias=False)
        self.divisor = 4 * input_size**0.5

    def multipliers(self, u: Float[Array, "B S U"]) -> tuple[Float[Array, "B S D"], ...]:
        factor = jax.nn.sigmoid(self.gate(u) / self.divisor + 3)
        take = jax.nn.sigmoid(-jnp.asarray(self.bias[...], jnp.float32)) * factor
        return 1 - take, take


def gate_linear(
    input_size: int,
    size: int,
    dtype: str,
    param_dtype: str,
    rngs: nnx.Rngs,
    use_bias: bool = True,
) -> nnx.Linear:
    """A linear layer. Its initial weights are small, so gates start near their offset."""
    return linear(
        input_size,
        size,
        use_bias=use_bias,
        dtype=dtype,
        param_dtype=param_dtype,
        kernel_init=nnx.initializers.variance_scaling(0.1, "fan_in", "truncated_normal"),
        bias_init=nnx.initializers.normal(0.1),
        rngs=rngs,
    )


GATES = {"fixed": FixedGate, "gru": GRUGate, "lstm": LSTMGate, "selective": SelectiveGate}
