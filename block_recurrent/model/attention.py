"""Sliding-window attention over all blocks of a segment at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from block_recurrent.model.linear import linear
from block_recurrent.model.window import Heads, Window
from block_recurrent.ops.attention import choose_kernel, fused_attention, fused_read
from block_recurrent.ops.dot_product import (
    attend,
    from_blocks_of_heads,
    to_blocks_of_heads,
    to_heads,
)
from block_recurrent.ops.dropout import dropout_multiplier
from block_recurrent.ops.normalize import l2_normalize, scaled_l2_normalize
from block_recurrent.ops.positions import (
    HIDDEN,
    MAX_DISTANCE,
    NUM_BUCKETS,
    by_relative_position,
    rotate,
    t5_bucket,
)
from block_recurrent.types import KV


class T5RelativeBias(nnx.Module):
    """A learned bias a head and bucket of distance (Raffel et al. 2020, section 2.1)."""

    reach = MAX_DISTANCE  # from here on all distances share a bias

    def __init__(self, num_heads: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
        self.table = nnx.Param(init(rngs.params(), (num_heads, NUM_BUCKETS), jnp.float32))

    def __call__(self, distance: Int[np.ndarray, " M"]) -> Float[Array, "H M"]:
        return self.table[:, t5_bucket(np.maximum(distance, 0))]


attend_twice = jax.checkpoint(attend)  # here, for layers to be alike


class SlidingWindowAttention(nnx.Module):
    """Every token attends to exactly the W tokens before it, itself not among them.

    logit = |scale_h| · (q · k + position bias), with q and k of unit length: queries of a block
    see the keys of their own block and of the one before, a band in ``[W, 2W]`` (section 3.1 of
    the paper). With `read_states`, tokens also attend, by queries of their own, to the keys and
    values of the recurrent states, and both results are projected together. With `remat`, the
    gradient computes the attention weights again; `kernel` is what computes the band
    (`ModelConfig.attention_kernel`).

    Example, in a model of one's own::

        attention = SlidingWindowAttention(256, num_heads=4, head_size=64, window_length=128,
                                           rngs=nnx.Rngs(0))
        cache = attention.initial_cache(batch_size)
        y, cache = attention(x, cache)          # x, y: [B, N·128, 256]
    """

    def __init__(
        self,
        embedding_size: int,
        num_heads: int,
        head_size: int,
        window_length: int,
        *,
        positions: str = "t5",
        read_states: bool = False,
        dropout_rate: float = 0.0,
        remat: bool = False,
        dtype: str = "float32",
        kernel: str = "xla",
        rngs: nnx.Rngs,
    ):
        dense = functools.partial(linear, dtype=dtype, rngs=rngs)
        width = num_heads * head_size
        self.num_heads, self.head_size = num_heads, head_size
        self.window_length, self.dropout_rate, self.dtype = window_length, dropout_rate, dtype
        self.kernel = choose_kernel(kernel, window_length, head_size, dtype)
        self.query = dense(embedding_size, width)
        self.key = dense(embedding_size, width)
        self.value = dense(embedding_size, width)
        self.scale = nnx.Param(jnp.ones(num_heads))
        self.relative_bias = T5RelativeBias(num_heads, rngs=rngs) if positions == "t5" else None
        self.read_states = read_states
        self.core = attend_twice if remat else attend
        if read_states:
            self.state_query = dense(embedding_size, width)
            self.state_scale = nnx.Param(jnp.ones(num_heads))
        self.output = dense(width * (1 + read_states), embedding_size)

    def initial_cache(self, batch_size: int) -> KV | None:
        """The cache of a document's start: zeros, which *are* attended to."""
        shape = (batch_size, self.num_heads, self.window_length, self.head_size)
        return KV(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        cache: KV,
        starts: Bool[Array, "B N"] | None = None,
        *,
        states: KV | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], KV]:
        """Attention with its output projection, and the cache of the last W tokens.

        `starts` is True where a block begins a document: it then sees zeros before it. `states`,
        ``[N, B, H, S, K]``, fused ``[N, B, S, H, K]``, are what each block reads (`read_states`).
        """
        heads = self.project(x)
        window, cache = self.extend(heads.tokens, cache, starts)
        return self.attend(heads, window, states, dropout_key=dropout_key), cache

    def project(self, x: Float[Array, "B T D"], block_length: int | None = None) -> Heads:
        """Queries (times |scale|), keys and values; queries and keys have unit length."""

        def heads(linear):
            return to_heads(linear(x), self.num_heads)

        queries, state_queries = scaled_l2_normalize(heads(self.query), self.scale[...]), None
        if self.read_states:
            state_queries = scaled_l2_normalize(heads(self.state_query), self.state_scale[...])
        tokens = KV(l2_normalize(heads(self.key)), heads(self.value))
        result, length = Heads(queries, tokens, state_queries), block_length or self.window_length
        if self.kernel == "pallas":
            return result
        return jax.tree.map(lambda leaf: to_blocks_of_heads(leaf, length), result)

    def extend(self, tokens: KV, cache: KV, starts: Bool[Array, "B N"] | None) -> tuple[Window, KV]:
        """What each block sees, and the cache for the next segment."""
        window = Window(tokens, cache, starts)
        return window, window.last()

    def attend(
        self,
        heads: Heads,
        window: Window,
        states: KV | None = None,
        *,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Tokens attend to their window and, where they read states, to those; projected."""
        size, read = self.window_length, self.core
        if self.kernel == "pallas":
            reach = min(size, T5RelativeBias.reach)
            bias = None if self.relative_bias is None else self.bias(np.arange(1, reach + 1))
            dropout = self.dropout(size, 2 * size, dropout_key)
            results, read = [fused_attention(heads.queries, *window, bias, dropout)], fused_read
        else:
            bias = self.band(size, 2 * size, reach=size)
            results = [self.attend_to_tokens(heads.queries, window.joined(), bias, dropout_key)]
        if self.read_states:
            results.append(read(heads.state_queries, *states))
        return self.output(from_blocks_of_heads(*results))

    def attend_to_tokens(
        self,
        queries: Float[Array, "N B H Q K"],
        tokens: KV,
        bias: Float[Array, "*#batch H Q V"],
        dropout_key: Key[Array, ""] | None,
    ) -> Float[Array, "N B H Q K"]:
        """Self-attention; queries stand at the last Q of the V positions of the keys."""
        keys, values = tokens
        num_queries, num_keys = queries.shape[-2], keys.shape[-2]
        if self.relative_bias is None:
            positions = np.arange(num_keys)
            queries, keys = rotate(queries, positions[-num_queries:]), rotate(keys, positions)
        dropout = self.dropout(num_queries, num_keys, dropout_key)
        return self.core(queries, keys, values, bias, dropout)

    def dropout(
        self, num_queries: int, num_keys: int, key: Key[Array, ""] | None
    ) -> Float[Array, "H Q V"] | None:
        """Multiplier of the attention weights."""
        if key is None or self.dropout_rate == 0:
            return None
        shape = (self.num_heads, num_queries, num_keys)
        return dropout_multiplier(shape, self.dropout_rate, key, jnp.dtype(self.dtype))

    def band(self, num_queries: int, num_keys: int, reach: int) -> Float[Array, "H Q V"]:
        """|scale| · position bias for the `reach` keys before a query, HIDDEN for all others."""
        distance = num_keys - 1 - np.arange(num_queries + num_keys - 1)  # query − key
        seen = (distance >= 1) & (distance <= reach)
        bias = jnp.zeros((self.num_heads, distance.size))
        if self.relative_bias is not None:
            bias = self.bias(distance)
        return by_relative_position(jnp.where(seen, bias, HIDDEN), num_queries, num_keys)

    def bias(self, distance: Int[np.ndarray, " M"]) -> Float[Array, "H M"]:
        """|scale| · position bias."""
        return jnp.abs(self.scale[...])[:, None] * self.relative_bias(distance)
