"""An LSTM layer, for the recurrent baseline without attention."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from block_recurrent.model.config import ModelConfig
from block_recurrent.model.feed_forward import RMSNorm
from block_recurrent.ops.dropout import tiled_dropout
from block_recurrent.types import LayerState


class LSTMLayer(nnx.Module):
    """x + LSTM(norm(x)), token by token, with Flax's cell. Called like a `TransformerLayer`.

    Its state is two vectors per row, memory cell and output, which are zeros at the start of a
    document.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d = config.embedding_size
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        self.dropout_rate = config.dropout_rate
        self.norm = RMSNorm(d, **types, rngs=rngs)
        self.cell = nnx.OptimizedLSTMCell(
            d, d, **types, recurrent_kernel_init=_orthogonal, rngs=rngs
        )

    def initial_state(self, batch_size: int) -> LayerState:
        """What the layer carries at the start of a document."""
        return LayerState(None, jnp.zeros((batch_size, 2, self.cell.hidden_features)))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: LayerState,
        starts: Bool[Array, "B N"] | None = None,
        *,
        states: None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], LayerState]:
        """Runs the layer over a segment. `states` is ignored; see `TransformerLayer`."""
        keys = (None,) * 2 if dropout_key is None else jax.random.split(dropout_key, 2)
        h = tiled_dropout(self.norm(x), self.dropout_rate, keys[0])
        fresh = jnp.zeros(x.shape[:2], bool)
        if starts is not None:
            fresh = fresh.at[:, :: x.shape[1] // starts.shape[1]].set(starts)

        def step(carry, token):
            h, fresh = token
            carry = jnp.where(fresh[:, None, None], 0, carry)
            (memory, output), _ = self.cell((carry[:, 0], carry[:, 1]), h)
            return jnp.stack([memory, output], axis=1).astype(carry.dtype), output

        with jax.named_scope("recurrence"):
            carry, y = jax.lax.scan(step, state.recurrent, (h.swapaxes(0, 1), fresh.T))
        y = tiled_dropout(y.swapaxes(0, 1), self.dropout_rate, keys[1])
        return x + y.astype(x.dtype), LayerState(None, carry)


def _orthogonal(key, shape, dtype):
    """The cell's usual initial values, of any type; JAX decomposes no matrices in bfloat16."""
    return nnx.initializers.orthogonal()(key, shape, jnp.float32).astype(dtype)
