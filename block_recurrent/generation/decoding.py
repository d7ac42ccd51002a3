"""The decoding state between two tokens, and its transition to the next block."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from block_recurrent.generation.token_step import RingBuffers, states_to_read
from block_recurrent.model.recurrent_cell import scan_blocks
from block_recurrent.model.transformer import BlockRecurrentTransformer
from block_recurrent.model.window import Window
from block_recurrent.types import KV, LayerState, ModelState

BEGIN = 0  # the input before the first token of a document, in every vocabulary: PADDING


class DecodingState(NamedTuple):
    """Everything a model remembers of its documents, one per row. Its size is constant.

    A block is W tokens or, with full attention, a segment.

    Attributes:
      memory: the model's state before the current block.
      block: the tokens of the current block; `BEGIN` precedes the document's first token. The last
        one has been written but not yet read.
      length: number of tokens of the document, including `BEGIN` and the last one.
    """

    memory: ModelState
    block: Int[Array, "B W"]
    length: Int[Array, " B"]

    @property
    def unread(self) -> Int[Array, " B"]:
        """The position of the next token to read, in its block."""
        return (self.length - 1) % self.block.shape[1]


def initial_decoding_state(
    model: BlockRecurrentTransformer, batch_size: int, block_length: int
) -> DecodingState:
    """The state of rows at the start of a document."""
    memory = tuple(
        state._replace(cache=layer.attention.zeros(batch_size, block_length))
        for layer, state in zip(model.layers, model.initial_state(batch_size), strict=True)
    )
    block = jnp.full((batch_size, block_length), BEGIN, jnp.int32)
    return DecodingState(memory, block, jnp.ones(batch_size, jnp.int32))


class Writing(NamedTuple):
    """A `DecodingState`, and values derived from it that writing needs.

    Attributes:
      state: the state of all rows; rows that are `done` do not change.
      states: `states_to_read` of the current block.
      rings: keys and values of the tokens before the unread one; ignored in rows that are done.
      done: whether each row has stopped.
    """

    state: DecodingState
    states: tuple[KV | None, ...]
    rings: RingBuffers
    done: Bool[Array, " B"]


def begin_writing(
    model: BlockRecurrentTransformer, state: DecodingState, after: ModelState
) -> Writing:
    """Prepares a state for writing.

    Args:
      model: the model.
      state: the state to start from.
      after: the model's state after the whole block, including unwritten tokens at its end.
    """
    window = state.block.shape[1]
    cut = jax.vmap(lambda row, first: jax.lax.dynamic_slice_in_dim(row, first, window, axis=1))

    def last(before, own):
        both = jnp.concatenate([before.astype(own.dtype), own], axis=2)
        return cut(both, state.unread).reshape(-1, window, own.shape[-1])

    layers = tuple(
        KV(*map(last, before.cache, own.cache))
        for before, own in zip(state.memory, after, strict=True)
    )
    newest = jax.tree.map(lambda leaf: leaf[:, -1:], layers)
    _, tokens = model.without_last(state.memory)
    if tokens is not None:
        text = jnp.concatenate([tokens, state.block], axis=1)
        tokens = jax.vmap(
            lambda row, first: jax.lax.dynamic_slice(row, (first,), tokens.shape[1:])
        )(text, state.unread)
    rings = RingBuffers(layers, newest, jnp.int32(window - 1), tokens)
    done = jnp.zeros(state.length.shape, bool)
    return Writing(state, states_to_read(model, state.memory), rings, done)


def append(state: DecodingState, new: Int[Array, " B"], done: Bool[Array, " B"]) -> DecodingState:
    """Appends one token to the rows that are not done."""
    place = state.length % state.block.shape[1]
    here = (jnp.arange(state.block.shape[1]) == place[:, None]) & ~done[:, None]
    block = jnp.where(here, new[:, None], state.block)
    return DecodingState(state.memory, block, state.length + ~done)


def next_block(
    model: BlockRecurrentTransformer,
    memory: ModelState,
    states: tuple[KV | None, ...],
    rings: RingBuffers,
    full: Bool[Array, " B"],
) -> tuple[ModelState, tuple[KV | None, ...]]:
    """Updates the model's state and `states_to_read` in the rows whose block is `full`.

    The block's keys and values are those in the ring buffers. Rows are processed one by one, so
    rows that are within a block cost nothing.
    """
    full_first = jnp.argsort(~full)

    def update(index, carry):
        row = full_first[index]

        def take(tree):
            return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, row, 1), tree)

        def take_ring(leaf):
            return leaf.reshape(full.size, -1, *leaf.shape[1:])[row]

        layers, newest = jax.tree.map(take_ring, (rings.layers, rings.newest))
        own = RingBuffers(layers, newest, rings.slot, take(rings.tokens))
        after = read_block(model, take(carry[0]), own)
        new = after, states_to_read(model, after)
        return jax.tree.map(
            lambda leaf, own: jax.lax.dynamic_update_slice_in_dim(leaf, own, row, 0), carry, new
        )

    return jax.lax.fori_loop(0, full.sum(), update, (memory, states))


def read_block(
    model: BlockRecurrentTransformer, memory: ModelState, rings: RingBuffers
) -> ModelState:
    """The model's state of one row after the block whose tokens are in the ring buffers."""
    after = []
    for layer, before, ring in zip(model.layers, memory, rings.written(), strict=True):
        own = KV(*(jnp.roll(leaf, -1 - rings.slot, axis=1)[None] for leaf in ring))
        recurrent = before.recurrent
        if recurrent is not None:
            block = jax.tree.map(lambda leaf: leaf[None], own)
            window = Window(block, before.cache, None)
            recurrent, _ = scan_blocks(layer.cell, recurrent, window.joined())
        after.append(LayerState(own, recurrent))
    return model.with_last(rings.tokens, tuple(after))


def select_rows(rows: Bool[Array, " B"], one: ModelState, other: ModelState) -> ModelState:
    """Selects `one` in the given rows, and `other` in the remaining rows."""

    def select(a, b):
        return jnp.where(rows.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(select, one, other)
