"""Vanilla causal attention over the whole segment: the O(T²) baseline."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from block_recurrent.model.attention import SlidingWindowAttention
from block_recurrent.ops.dot_product import from_blocks_of_heads
from block_recurrent.ops.positions import HIDDEN
from block_recurrent.types import KV


class FullAttention(SlidingWindowAttention):
    """Every token attends to all tokens before it in its document and segment.

    Nothing is carried from segment to segment. The first token of a document sees nothing: zero.
    A call that is given a cache, whatever it holds, returns the keys and values of its own segment,
    from which decoding goes on.
    """

    def initial_cache(self, batch_size: int) -> None:
        return None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        cache: KV | None,
        starts: Bool[Array, "B N"] | None = None,
        *,
        states: None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], KV | None]:
        """Attention with its output projection; a document may start every W tokens."""
        batch, length, _ = x.shape
        if starts is None:
            starts = jnp.zeros((batch, length // self.window_length), bool)
        starts = starts.at[:, 0].set(True)
        document = jnp.repeat(jnp.cumsum(starts, axis=1), self.window_length, axis=1)
        hidden = jnp.where(document[:, :, None] == document[:, None, :], 0, HIDDEN)
        heads = self.project(x, length)
        bias = self.band(length, length, reach=length) + hidden[:, None]
        y = self.attend_to_tokens(heads.queries, heads.tokens, bias, dropout_key)
        y = from_blocks_of_heads(y).reshape(batch, starts.shape[1], self.window_length, -1)
        y = y.at[:, :, 0].multiply(~starts[:, :, None])
        cache = None if cache is None else KV(*(leaf[0] for leaf in heads.tokens))
        return self.output(y.reshape(batch, length, -1)), cache
