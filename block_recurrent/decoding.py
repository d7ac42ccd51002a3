"""The state between two tokens, and the compiled loop that writes tokens."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from block_recurrent.model import BlockRecurrentTransformer
from block_recurrent.recurrent_cell import scan_blocks
from block_recurrent.sampling import Sampling
from block_recurrent.token_step import Rings, places, read_token, states_to_read
from block_recurrent.types import KeysValues, LayerState, ModelState

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
        unseen = KeysValues(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))
        memory = tuple(LayerState(unseen, None) for _ in memory)
    block = jnp.full((batch_size, block_length), BEGIN, jnp.int32)
    return DecodingState(memory, block, jnp.ones(batch_size, jnp.int32))


def fill_rings(memory: ModelState, after: ModelState, unread: Int[Array, " B"]) -> Rings:
    """Rings of the tokens before the unread one.

    Args:
      memory: the model's state before the block.
      after: the one that the model returns for the block, whatever its last tokens are.
      unread: the place of the unread token.
    """

    def last(before, own):
        both = jnp.concatenate([before.astype(own.dtype), own], axis=2)
        cut = jax.vmap(lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, size, axis=1))
        size = own.shape[2]
        return cut(both, unread)

    layers = tuple(
        KeysValues(*map(last, *pair))
        for pair in ((one.cache, two.cache) for one, two in zip(memory, after, strict=True))
    )
    newest = jax.tree.map(lambda leaf: leaf[:, :, -1:], layers)
    return Rings(layers, newest, jnp.int32(layers[0].keys.shape[2] - 1))


class Writing(NamedTuple):
    """The loop's own: rows that are `done` stay as they are."""

    state: DecodingState
    rings: Rings
    done: Bool[Array, " B"]


def write_tokens(
    model: BlockRecurrentTransformer,
    writing: Writing,
    key: Key[Array, ""],
    limit: Int[Array, ""],
    *,
    size: int,
    sampling: Sampling,
    stop_tokens: tuple[int, ...],
) -> tuple[Int[Array, "B size"], Writing]:
    """Writes up to `limit` ≤ `size` tokens, fewer when all rows are done.

    The outer loop goes from one end of a block in some row to the next, the inner one over the
    tokens between: within it the states are constants.
    """
    in_order = places(model, writing.rings.layers[0].keys.shape[2])
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(writing.done.size))

    def unfinished(carry):
        _, count, writing = carry
        return (count < limit) & ~writing.done.all()

    def to_block_end(carry):
        tokens, count, writing = carry
        memory, window = writing.state.memory, writing.state.block.shape[1]
        states = states_to_read(model, memory)
        steps = jnp.where(writing.done, window, window - writing.state.unread)
        end = jnp.minimum(limit, count + steps.min())

        def step(carry):
            tokens, count, (state, rings, done), _ = carry
            unread = state.unread
            token = jnp.take_along_axis(state.block, unread[:, None], axis=1)[:, 0]
            logits, rings = read_token(model, token, rings, in_order, unread, states)
            new = sampling(logits, jax.vmap(jax.random.fold_in)(row_keys, state.length))
            full = ~done & (unread == window - 1)
            state = append(state, new, done)
            tokens = jax.lax.dynamic_update_slice(tokens, new[:, None], (0, count))
            for stop in stop_tokens:
                done = done | (new == stop)
            return tokens, count + 1, Writing(state, rings, done), full

        def before_end(carry):
            _, count, writing, _ = carry
            return (count < end) & ~writing.done.all()

        light = writing._replace(state=writing.state._replace(memory=()))  # memory: not carried
        nowhere = jnp.zeros(writing.done.shape, bool)
        tokens, count, writing, full = jax.lax.while_loop(
            before_end, step, (tokens, count, light, nowhere)
        )
        memory = jax.lax.cond(
            full.any(),
            lambda: next_block(model, memory, writing.rings, full),
            lambda: memory,
        )
        return tokens, count, writing._replace(state=writing.state._replace(memory=memory))

    tokens = jnp.zeros((writing.done.size, size), jnp.int32)
    tokens, _, writing = jax.lax.while_loop(
        unfinished, to_block_end, (tokens, jnp.zeros((), jnp.int32), writing)
    )
    return tokens, writing


def append(state: DecodingState, new: Int[Array, " B"], done: Bool[Array, " B"]) -> DecodingState:
    """One token more in the rows that are not done."""
    place = state.length % state.block.shape[1]
    here = (jnp.arange(state.block.shape[1]) == place[:, None]) & ~done[:, None]
    block = jnp.where(here, new[:, None], state.block)
    return DecodingState(state.memory, block, state.length + ~done)


def next_block(
    model: BlockRecurrentTransformer, memory: ModelState, rings: Rings, full: Bool[Array, " B"]
) -> ModelState:
    """The model's state after the block that fills the rings, in the rows where it is full."""
    after = []
    for layer, before, ring in zip(model.layers, memory, rings.written(), strict=True):
        own = KeysValues(*(jnp.roll(leaf, -1 - rings.slot, axis=2) for leaf in ring))
        recurrent = before.recurrent
        if recurrent is not None:
            blocks = KeysValues(*(leaf[None] for leaf in own))
            window, _ = layer.attention.extend(blocks, before.cache, None)
            recurrent, _ = scan_blocks(layer.cell, recurrent, window.joined())
        after.append(LayerState(own, recurrent))
    return select_rows(full, tuple(after), memory)


def select_rows(rows: Bool[Array, " B"], one: ModelState, other: ModelState) -> ModelState:
    """`one` in these rows, `other` in the rest."""

    def select(a, b):
        return jnp.where(rows.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(select, one, other)
