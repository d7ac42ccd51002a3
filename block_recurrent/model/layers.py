"""A transformer layer, with or without a recurrent cell."""

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from block_recurrent.model.attention import SlidingWindowAttention
from block_recurrent.model.config import ModelConfig
from block_recurrent.model.feed_forward import FeedForward, RMSNorm
from block_recurrent.model.full_attention import FullAttention
from block_recurrent.model.recurrent_cell import RecurrentCell, scan_blocks
from block_recurrent.ops.dropout import tiled_dropout
from block_recurrent.types import KV, LayerState


class TransformerLayer(nnx.Module):
    """x + attention(norm(x)), then x + FFN(norm(x)). With feedback, tokens also read the states.

    The norms and the sums read x as rows ``[B·T, D]``. On a GPU, XLA adds x to a projection as part
    of the product. If only the sum read x in this shape, XLA would first copy x for each sum.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        read_states: bool = False,
        sequence_axis: str | None = None,
        rngs: nnx.Rngs,
    ):
        d = config.embedding_size
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        attention = FullAttention if config.attention == "full" else SlidingWindowAttention
        self.dropout_rate = config.dropout_rate
        self.attention_norm = RMSNorm(d, **types, rngs=rngs)
        self.attention = attention(
            d,
            config.num_heads,
            config.head_size,
            config.window_length,
            positions=config.positions,
            read_states=read_states,
            dropout_rate=config.dropout_rate,
            remat=config.remat == "attention",
            kernel=config.attention_kernel,
            sequence_axis=sequence_axis,
            **types,
            rngs=rngs,
        )
        self.ffn_norm = RMSNorm(d, **types, rngs=rngs)
        self.ffn = FeedForward(d, config.mlp_dim, d, gated=config.gated_ffn, **types, rngs=rngs)

    def initial_state(self, batch_size: int) -> LayerState:
        """What the layer carries at the start of a document."""
        return LayerState(self.attention.initial_cache(batch_size), None)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: LayerState,
        starts: Bool[Array, "B N"] | None = None,
        *,
        states: KV | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], LayerState]:
        """Runs the layer over a segment.

        Args:
          x: the residual stream.
          state: the layer's state after the previous segment.
          starts: whether a block starts a document.
          states: with feedback, keys and values of the recurrent states, ``[N, B, H, S, K]``.
          dropout_key: switches dropout on.
        """
        keys = (None,) * 3 if dropout_key is None else jax.random.split(dropout_key, 3)
        with jax.named_scope("attention"):
            rows = x.reshape(-1, x.shape[-1])
            h = self.attention_norm(rows).reshape(x.shape)
            h = tiled_dropout(h, self.dropout_rate, keys[0])
            y, state = self.mix(h, state, starts, states, keys[1])
            x = (rows + y.reshape(rows.shape)).reshape(x.shape)
        with jax.named_scope("ffn"):
            return self.feed_forward(x, keys[2]), state

    def feed_forward(
        self, x: Float[Array, "B T D"], dropout_key: Key[Array, ""] | None = None
    ) -> Float[Array, "B T D"]:
        """The second half: x + FFN(norm(x))."""
        rows = x.reshape(-1, x.shape[-1])
        y = self.ffn(self.ffn_norm(rows)).reshape(x.shape)
        y = tiled_dropout(y, self.dropout_rate, dropout_key)
        return (rows + y.reshape(rows.shape)).reshape(x.shape)

    def mix(
        self,
        h: Float[Array, "B T D"],
        state: LayerState,
        starts: Bool[Array, "B N"] | None,
        states: KV | None,
        dropout_key: Key[Array, ""] | None,
    ) -> tuple[Float[Array, "B T D"], LayerState]:
        """Runs the attention between tokens, and returns the new state of the layer."""
        y, cache = self.attention(h, state.cache, starts, states=states, dropout_key=dropout_key)
        return y, LayerState(cache, None)


class RecurrentLayer(TransformerLayer):
    """The recurrent layer of the paper (Figure 1): a transformer layer with a recurrent cell.

    Keys and values of the tokens do not depend on the states. So the cell first runs over all
    blocks. Then the tokens of all blocks attend at once, to their windows and to the state that
    enters their block.
    """

    def __init__(self, config: ModelConfig, *, sequence_axis: str | None = None, rngs: nnx.Rngs):
        super().__init__(config, read_states=True, sequence_axis=sequence_axis, rngs=rngs)
        self.cell = RecurrentCell(
            config.embedding_size,
            config.num_states,
            config.num_heads,
            config.head_size,
            config.mlp_dim,
            gate=config.gate,
            configuration=config.configuration,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            kernel=config.attention_kernel,
            rngs=rngs,
        )

    def initial_state(self, batch_size: int) -> LayerState:
        """What the layer carries at the start of a document."""
        cache = self.attention.initial_cache(batch_size)
        return LayerState(cache, self.cell.initial_state(batch_size))

    def mix(
        self,
        h: Float[Array, "B T D"],
        state: LayerState,
        starts: Bool[Array, "B N"] | None,
        states: KV | None,
        dropout_key: Key[Array, ""] | None,
    ) -> tuple[Float[Array, "B T D"], LayerState]:
        """Runs the cell and the attention, and returns the new state of the layer."""
        heads = self.attention.project(h)
        window, cache = self.attention.extend(heads.tokens, state.cache, starts)
        with jax.named_scope("recurrence"):
            recurrent, states = scan_blocks(
                self.cell,
                state.recurrent,
                window.joined(),
                starts,
                self.attention.sequence_axis,
            )
        y = self.attention.attend(heads, window, states, dropout_key=dropout_key)
        return y, LayerState(cache, recurrent)
