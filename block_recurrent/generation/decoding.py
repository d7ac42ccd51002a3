"""The state between two tokens, and how it enters the next block."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from block_recurrent.generation.token_step import Rings, states_to_read
from block_recurrent.model.recurrent_cell import scan_blocks
from block_recurrent.model.transformer import BlockRecurrentTransformer
from block_recurrent.model.window import Window, as_block
from block_recurrent.ops.attention import HEADS_AXIS
from block_recurrent.types import KV, LayerState, ModelState

BEGIN = 0  # what a model reads before the first token of a document: `data.vocabularies.PADDING`


class DecodingState(NamedTuple):
    """What a model knows of the documents it is in, one a row: constant in their length.

    A block is W tokens; under full attention it is a segment, the whole of what is seen.

    Attributes:
      memory: the model's state before the block that is being read or written.
      block: the tokens of that block, `BEGIN` as the first of the document; the last one has only
        been written, and is read to predict the next.
      length: tokens of the document, `BEGIN` and that last one included.
    """

    memory: ModelState
    block: Int[Array, "B W"]
    length: Int[Array, " B"]

    @property
    def unread(self) -> Int[Array, " B"]:
        """The place in the block of the token that is to be read next."""
        return (self.length - 1) % self.block.shape[1]


def initial_decoding_state(
    model: BlockRecurrentTransformer, batch_size: int, block_length: int
) -> DecodingState:
    """Rows at the beginning of a document."""
    config = model.config
    memory = model.initial_state(batch_size)
    if config.attention == "full":
        shape = batch_size, config.num_heads, block_length, config.head_size
        unseen = KV(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))
        memory = tuple(LayerState(unseen, None) for _ in memory)
    block = jnp.full((batch_size, block_length), BEGIN, jnp.int32)
    return DecodingState(memory, block, jnp.ones(batch_size, jnp.int32))


class Writing(NamedTuple):
    """A `DecodingState`, and what follows from it.

    Attributes:
      state: of all rows; those that are `done` stay as they are.
      states: `states_to_read` in the block.
      rings: the tokens before the unread one; of no account in rows that are done.
      done: rows that have stopped.
    """

    state: DecodingState
    states: tuple[KV | None, ...]
    rings: Rings
    done: Bool[Array, " B"]


def begin_writing(
    model: BlockRecurrentTransformer, state: DecodingState, after: ModelState
) -> Writing:
    """What writing needs besides the state.

    Args:
      model: the model.
      state: where to begin.
      after: the model's state after the block, whatever its last tokens are.
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
    rings = Rings(layers, newest, jnp.int32(window - 1))
    done = jnp.zeros(state.length.shape, bool)
    return Writing(state, states_to_read(model, state.memory), rings, done)


def append(state: DecodingState, new: Int[Array, " B"], done: Bool[Array, " B"]) -> DecodingState:
    """One token more in the rows that are not done."""
    place = state.length % state.block.shape[1]
    here = (jnp.arange(state.block.shape[1]) == place[:, None]) & ~done[:, None]
    block = jnp.where(here, new[:, None], state.block)
    return DecodingState(state.memory, block, state.length + ~done)


def next_block(
    model: BlockRecurrentTransformer,
    memory: ModelState,
    states: tuple[KV | None, ...],
    rings: Rings,
    full: Bool[Array, " B"],
) -> tuple[ModelState, tuple[KV | None, ...]]:
    """The model's state after the block that fills the rings, and the states to read from then on.

    Row by row, and only in those where it is `full`: the others stand elsewhere in their blocks.
    """
    full_first = jnp.argsort(~full)

    def update(index, carry):
        row = full_first[index]

        def take(tree):
            return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, row, 1), tree)

        def take_ring(leaf):
            return leaf.reshape(full.size, -1, *leaf.shape[1:])[row]

        layers, newest = jax.tree.map(take_ring, (rings.layers, rings.newest))
        after = read_block(model, take(carry[0]), Rings(layers, newest, rings.slot))
        new = after, states_to_read(model, after)
        return jax.tree.map(
            lambda leaf, own: jax.lax.dynamic_update_slice_in_dim(leaf, own, row, 0), carry, new
        )

    return jax.lax.fori_loop(0, full.sum(), update, (memory, states))


def read_block(model: BlockRecurrentTransformer, memory: ModelState, rings: Rings) -> ModelState:
    """The model's state of one row after a block whose tokens fill the rings."""
    after = []
    for layer, before, ring in zip(model.layers, memory, rings.written(), strict=True):
        own = KV(*(jnp.roll(leaf, -1 - rings.slot, axis=1)[None] for leaf in ring))
        recurrent = before.recurrent
        if recurrent is not None:
            block = as_block(own, HEADS_AXIS[layer.attention.kernel])
            window = Window(block, before.cache, None)
            recurrent, _ = scan_blocks(layer.cell, recurrent, window.joined())
        after.append(LayerState(own, recurrent))
    return tuple(after)


def select_rows(rows: Bool[Array, " B"], one: ModelState, other: ModelState) -> ModelState:
    """`one` in these rows, `other` in the rest."""

    def select(a, b):
        return jnp.where(rows.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(select, one, other)
