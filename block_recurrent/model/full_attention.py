"""Vanilla causal attention over the whole segment: the O(T²) baseline."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from block_recurrent.errors import UserError
from block_recurrent.model.attention import SlidingWindowAttention
from block_recurrent.model.inputs import (
    check_dropout_key,
    check_length,
    check_shape,
    check_starts,
)
from block_recurrent.ops.attention import causal_band
from block_recurrent.ops.blocks import from_blocks_of_heads, merge_heads
from block_recurrent.ops.dot_product import attend, attend_with_remat
from block_recurrent.ops.positions import HIDDEN, rotate
from block_recurrent.types import KV


class FullAttention(SlidingWindowAttention):
    """Every token attends to all previous tokens of its document and segment.

    The segment is the context: nothing is carried from one to the next. The first token of a
    document sees no keys, and its result is zero. If a cache is passed, its contents are ignored
    and the keys and values of the segment are returned. Decoding continues from these.
    """

    def initial_cache(self, batch_size: int) -> None:
        """None, because nothing is carried."""
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
        """Runs the attention over a segment. A document may start every W tokens.

        Raises:
          UserError: a shape or type does not fit, or there are states to read.
        """
        check_shape("x", x, "B", "T", self.embedding_size)
        batch, length, _ = x.shape
        check_length(length, self.window_length)
        check_starts(starts, batch, length // self.window_length)
        check_dropout_key(dropout_key)
        if self.read_states or states is not None:
            raise UserError("full attention reads no states: use SlidingWindowAttention")
        if starts is None:
            starts = jnp.zeros((batch, length // self.window_length), bool)
        starts = starts.at[:, 0].set(True)
        heads = self.project(x, length)
        queries, (keys, values) = heads.queries, heads.tokens
        reach = length - 1
        bias = self.bias_up_to(reach)
        if bias is None:
            queries, keys = rotate(queries, np.arange(length)), rotate(keys, np.arange(length))
            bias = jnp.zeros((self.num_heads, reach))
        bias = causal_band(bias, length, length, reach) + self.other_documents(starts)
        dropout = self.dropout(length, length, dropout_key)
        core = attend_with_remat if self.remat else attend
        y = merge_heads(from_blocks_of_heads(core(queries, keys, values, bias, dropout)))
        y = y.reshape(batch, starts.shape[1], self.window_length, -1)
        y = y.at[:, :, 0].multiply(~starts[:, :, None])
        cache = None if cache is None else KV(*(leaf[0] for leaf in heads.tokens))
        return self.output(y.reshape(batch, length, -1)), cache

    def visible(self, distance: Int[Array, " V"], seen: Int[Array, " B"]) -> Bool[Array, "B V"]:
        """In decoding, a token sees the previous tokens of its segment."""
        return distance <= seen[:, None]

    def other_documents(self, starts: Bool[Array, "B N"]) -> Float[Array, "B 1 T T"]:
        """HIDDEN between tokens of different documents, else 0."""
        document = jnp.repeat(jnp.cumsum(starts, axis=1), self.window_length, axis=1)
        same = document[:, :, None] == document[:, None, :]
        return jnp.where(same, 0, HIDDEN)[:, None]
