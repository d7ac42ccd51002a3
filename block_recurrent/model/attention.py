"""Sliding-window attention over all blocks of a segment at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from block_recurrent.errors import UserError
from block_recurrent.fields import check_arguments, check_value
from block_recurrent.model.config import ModelConfig, check_head_size
from block_recurrent.model.feed_forward import linear
from block_recurrent.model.inputs import (
    check_batch_size,
    check_dropout_key,
    check_keys_values,
    check_length,
    check_rngs,
    check_shape,
    check_starts,
)
from block_recurrent.model.window import Heads, Window
from block_recurrent.ops.attention import choose_kernel, unmasked_attention, window_attention
from block_recurrent.ops.blocks import (
    from_blocks_of_heads,
    merge_heads,
    to_blocks_of_heads,
    to_heads,
)
from block_recurrent.ops.dropout import dropout_multiplier
from block_recurrent.ops.normalize import l2_normalize, scaled_l2_normalize
from block_recurrent.ops.positions import MAX_DISTANCE, NUM_BUCKETS, t5_bucket
from block_recurrent.ops.segment_parts import from_part_before, of_last_part
from block_recurrent.types import KV


class T5RelativeBias(nnx.Module):
    """A learned bias per head and bucket of distance (Raffel et al. 2020, section 2.1)."""

    def __init__(self, num_heads: int, param_dtype: str = "float32", *, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
        self.table = nnx.Param(init(rngs.params(), (num_heads, NUM_BUCKETS), param_dtype))

    def __call__(self, distance: Int[np.ndarray, " M"]) -> Float[Array, "H M"]:
        return self.table[:, t5_bucket(distance)]


class SlidingWindowAttention(nnx.Module):
    """Every token attends to exactly the W tokens before it, not to itself.

    logit = |scale_h| · (q · k + position bias), where q and k have unit length. The queries of a
    block see keys of their own block and of the previous one: a band in ``[W, 2W]`` (section 3.1 of
    the paper). With `read_states`, tokens also attend to the recurrent states, with a second set of
    queries. Both results are then projected together.

    Example, in your own model::

        attention = SlidingWindowAttention(256, num_heads=4, head_size=64, window_length=128,
                                           rngs=nnx.Rngs(0))
        cache = attention.initial_cache(batch_size)
        y, cache = attention(x, cache)          # x, y: [B, N·128, 256]

    Args:
      embedding_size: width D of inputs and outputs.
      num_heads: attention heads H.
      head_size: width K of a head.
      window_length: W, in tokens.
      positions: 't5' (learned relative bias) or 'rope'.
      read_states: whether tokens also attend to recurrent states.
      dropout_rate: fraction of attention weights dropped when a dropout key is given.
      remat: recompute the attention weights in the backward pass.
      dtype: type of the computation.
      param_dtype: type of the parameters.
      kernel: `ModelConfig.attention_kernel`.
      sequence_axis: inside `jax.shard_map`, the axis of the mesh that splits segments, so that each
        device has the same number of blocks, in order. The cache is whole. None: so are segments.
      rngs: random keys for the initial parameters.

    Raises:
      UserError: an argument has a wrong type or value.
    """

    @check_arguments(ModelConfig, kernel="attention_kernel", remat=None)
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
        param_dtype: str = "float32",
        kernel: str = "xla",
        sequence_axis: str | None = None,
        rngs: nnx.Rngs,
    ):
        check_rngs(rngs)
        check_head_size(positions, head_size)
        for name, value in ("read_states", read_states), ("remat", remat):
            check_value(name, value, bool)
        dense = functools.partial(linear, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        width = num_heads * head_size
        self.embedding_size, self.num_heads, self.head_size = embedding_size, num_heads, head_size
        self.window_length, self.dropout_rate, self.dtype = window_length, dropout_rate, dtype
        self.kernel = choose_kernel(kernel, {"window_length": window_length}, head_size, dtype)
        self.query = dense(embedding_size, width)
        self.key = dense(embedding_size, width)
        self.value = dense(embedding_size, width)
        self.scale = nnx.Param(jnp.ones(num_heads, param_dtype))
        learned = positions == "t5"
        self.relative_bias = T5RelativeBias(num_heads, param_dtype, rngs=rngs) if learned else None
        self.read_states, self.remat, self.sequence_axis = read_states, remat, sequence_axis
        if read_states:
            self.state_query = dense(embedding_size, width)
            self.state_scale = nnx.Param(jnp.ones(num_heads, param_dtype))
        self.output = dense(width * (1 + read_states), embedding_size)

    def initial_cache(self, batch_size: int) -> KV | None:
        """The cache at the start of a document: zeros, which *are* attended to."""
        return self.zeros(check_batch_size(batch_size), self.window_length)

    def zeros(self, batch_size: int, length: int) -> KV:
        """Zeros in place of the keys and values ``[B, H, length, K]`` before a document."""
        shape = (batch_size, self.num_heads, length, self.head_size)
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
        """Runs the attention over a segment.

        Args:
          x: a segment; T is a multiple of W.
          cache: keys and values of the W tokens before the segment, ``[B, H, W, K]``.
          starts: whether a block starts a document. Keys and values before it then count as zeros.
          states: with `read_states`, keys and values that each block reads, ``[N, B, H, S, K]``.
          dropout_key: switches dropout on.

        Returns:
          The projected result, and the keys and values of the last W tokens.

        Raises:
          UserError: a shape or type does not fit.
        """
        heads = self.project(x)
        window, cache = self.extend(heads.tokens, cache, starts)
        return self.attend(heads, window, states, dropout_key=dropout_key), cache

    def project(self, x: Float[Array, "B T D"], block_length: int | None = None) -> Heads:
        """Projects a segment to queries, keys and values, by block.

        Keys have unit length; queries are unit vectors times |scale|. The fused kernels normalize
        them on their own. What is not used is not computed, if the call is compiled.
        """
        length = block_length or self.window_length
        check_shape("x", x, "B", "T", self.embedding_size)
        check_length(x.shape[1], length)

        def heads(linear):
            return to_heads(linear(x), self.num_heads)

        queries, (keys, values), state_queries, _ = projections = Heads(
            heads(self.query),
            KV(heads(self.key), heads(self.value)),
            heads(self.state_query) if self.read_states else None,
        )
        queries = scaled_l2_normalize(queries, self.scale[...])
        if self.read_states:
            state_queries = scaled_l2_normalize(state_queries, self.state_scale[...])
        tokens = KV(l2_normalize(keys), values)
        return jax.tree.map(
            lambda leaf: to_blocks_of_heads(leaf, length),
            Heads(queries, tokens, state_queries, projections),
        )

    def extend(self, tokens: KV, cache: KV, starts: Bool[Array, "B N"] | None) -> tuple[Window, KV]:
        """The keys and values that each block sees, and the cache for the next segment."""
        sizes = self.num_heads, self.window_length, self.head_size
        check_keys_values("tokens", tokens, "N", "B", *sizes)
        blocks, batch = tokens.keys.shape[:2]
        check_keys_values("cache", cache, batch, *sizes)
        check_starts(starts, batch, blocks)
        last = jax.tree.map(lambda blocks: blocks[-1], tokens)
        carried = from_part_before(last, cache, self.sequence_axis)
        return Window(tokens, carried, starts), of_last_part(last, self.sequence_axis)

    def attend(
        self,
        heads: Heads,
        window: Window,
        states: KV | None = None,
        *,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Attention of tokens to their window and, with `read_states`, to states; projected."""
        self.check_states(states, *heads.queries.shape[:2])
        check_dropout_key(dropout_key)
        dropout = self.dropout(self.window_length, 2 * self.window_length, dropout_key)
        bias, scale, state_scale = self.bias_up_to(self.window_length), None, None
        if self.kernel == "pallas":
            heads, scale = heads.projections, jnp.abs(self.scale[...])
            state_scale = jnp.abs(self.state_scale[...]) if self.read_states else None
            window = window._replace(tokens=heads.tokens)
        results = [
            window_attention(heads.queries, *window, bias, dropout, scale=scale, remat=self.remat)
        ]
        if self.read_states:
            results.append(
                unmasked_attention(
                    heads.state_queries, *states, scale=state_scale, remat=self.remat
                )
            )
        return self.output(merge_heads(*map(from_blocks_of_heads, results)))

    def check_states(self, states: KV | None, blocks: int, batch: int):
        """Raises UserError unless `states` are given if they are read, and have the right shape."""
        if self.read_states:
            check_keys_values("states", states, blocks, batch, self.num_heads, "S", self.head_size)
        elif states is not None:
            raise UserError("states are given, but not read: create it with read_states=True")

    def visible(
        self, distance: Int[Array, " V"], seen: Int[Array, " B"]
    ) -> Bool[Array, "B V"] | None:
        """In decoding, which of the V previous tokens a token sees; None: all W of them.

        Args:
          distance: distance of each previous token.
          seen: number of tokens of the segment that each row has already read.
        """
        return None

    def dropout(
        self, num_queries: int, num_keys: int, key: Key[Array, ""] | None
    ) -> Float[Array, "H Q V"] | None:
        """Random multipliers of the attention weights; None without dropout."""
        if key is None or self.dropout_rate == 0:
            return None
        shape = (self.num_heads, num_queries, num_keys)
        return dropout_multiplier(shape, self.dropout_rate, key, jnp.dtype(self.dtype))

    def bias_up_to(self, reach: int) -> Float[Array, "H R"] | None:
        """Position bias by distance 1 … R, where the bias of R also applies to greater distances.

        None with rotary positions.
        """
        if self.relative_bias is None:
            return None
        return self.bias(np.arange(1, min(reach, MAX_DISTANCE) + 1))

    def bias(self, distance: Int[np.ndarray, " M"]) -> Float[Array, "H M"]:
        """|scale| · position bias, by distance."""
        scale = jnp.abs(self.scale[...])[:, None].astype(jnp.float32)
        return scale * self.relative_bias(distance)
