"""The state between two tokens, and the compiled loop that writes tokens."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

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


class Progress(NamedTuple):
    """What the loops carry: the tokens written so far, and how many columns of them."""

    tokens: Int[Array, "B size"]
    count: Int[Array, ""]
    writing: Writing


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
    """Writes up to `limit` ≤ `size` tokens, fewer when all rows are done."""
    in_order = places(model, writing.rings.layers[0].keys.shape[2])
    noise = gumbel_noise(key, writing.state.length, size, model.config.vocab_size)

    def write(progress, states):
        tokens, count, (state, rings, done) = progress
        unread = state.unread
        token = jnp.take_along_axis(state.block, unread[:, None], axis=1)[:, 0]
        logits, rings = read_token(model, token, rings, in_order, unread, states)
        new = sampling(logits, noise[count])
        state = append(state, new, done)
        tokens = jax.lax.dynamic_update_slice(tokens, new[:, None], (0, count))
        for stop in stop_tokens:
            done = done | (new == stop)
        return Progress(tokens, count + 1, Writing(state, rings, done))

    tokens = jnp.zeros((writing.done.size, size), jnp.int32)
    progress = jax.lax.while_loop(
        lambda progress: (progress.count < limit) & ~progress.writing.done.all(),
        lambda progress: write_to_block_end(model, write, limit, progress),
        Progress(tokens, jnp.zeros((), jnp.int32), writing),
    )
    return progress.tokens, progress.writing


def write_to_block_end(
    model: BlockRecurrentTransformer, write: Callable, limit: Int[Array, ""], progress: Progress
) -> Progress:
    """Goes on until a block is full in some row, or to the limit.

    The states are constants meanwhile: the loop over tokens carries no memory, and tests nothing.
    """
    state, memory = progress.writing.state, progress.writing.state.memory
    window, states = state.block.shape[1], states_to_read(model, memory)
    steps = jnp.where(progress.writing.done, window, window - state.unread)
    end = jnp.minimum(limit, progress.count + steps.min())

    def before_end(carry):
        progress, _ = carry
        return (progress.count < end) & ~progress.writing.done.all()

    def step(carry):
        progress, _ = carry
        full = ~progress.writing.done & (progress.writing.state.unread == window - 1)
        return write(progress, states), full

    light = progress._replace(writing=_with_memory(progress.writing, ()))
    progress, full = jax.lax.while_loop(before_end, step, (light, jnp.zeros(steps.shape, bool)))
    rings = progress.writing.rings
    memory = jax.lax.cond(
        full.any(), lambda: next_block(model, memory, rings, full), lambda: memory
    )
    return progress._replace(writing=_with_memory(progress.writing, memory))


def _with_memory(writing: Writing, memory: ModelState) -> Writing:
    return writing._replace(state=writing.state._replace(memory=memory))


def gumbel_noise(
    key: Key[Array, ""], length: Int[Array, " B"], size: int, vocab_size: int
) -> Float[Array, "size B L"]:
    """Noise of the next tokens: by row and place in the document, however these are reached."""

    def noise(row, place):
        own = jax.random.fold_in(jax.random.fold_in(key, row), place)
        return jax.random.gumbel(own, (vocab_size,))

    rows, ahead = jnp.arange(length.size), jnp.arange(size)
    return jax.vmap(jax.vmap(noise), (None, 0))(rows, length + ahead[:, None])


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
