"""The compiled loop that writes tokens."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from block_recurrent.generation.decoding import Writing, append, next_block
from block_recurrent.generation.sampling import Sampling
from block_recurrent.generation.token_step import read_token, ring_positions
from block_recurrent.model.transformer import BlockRecurrentTransformer


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
    in_order = ring_positions(model, writing.state.block.shape[1])
    noise = gumbel_noise(key, writing.state.length, size, model.config.vocab_size)

    def write(progress, states):
        tokens, count, (state, _, rings, done) = progress
        unread = state.unread
        token = jnp.take_along_axis(state.block, unread[:, None], axis=1)[:, 0]
        logits, rings = read_token(model, token, rings, in_order, unread, states)
        new = sampling(logits, noise[count])
        state = append(state, new, done)
        tokens = jax.lax.dynamic_update_slice(tokens, new[:, None], (0, count))
        for stop in stop_tokens:
            done = done | (new == stop)
        return Progress(tokens, count + 1, Writing(state, (), rings, done))

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

    Memory and states are constants meanwhile, which the loop over tokens does not carry.
    """
    state, states, *_ = progress.writing
    window = state.block.shape[1]
    steps = jnp.where(progress.writing.done, window, window - state.unread)
    end = jnp.minimum(limit, progress.count + steps.min())

    def before_end(carry):
        progress, _ = carry
        return (progress.count < end) & ~progress.writing.done.all()

    def step(carry):
        progress, _ = carry
        full = ~progress.writing.done & (progress.writing.state.unread == window - 1)
        return write(progress, states), full

    light = progress._replace(writing=_with(progress.writing, (), ()))
    progress, full = jax.lax.while_loop(before_end, step, (light, jnp.zeros(steps.shape, bool)))
    memory, states = next_block(model, state.memory, states, progress.writing.rings, full)
    return progress._replace(writing=_with(progress.writing, memory, states))


def _with(writing: Writing, memory: tuple, states: tuple) -> Writing:
    return writing._replace(state=writing.state._replace(memory=memory), states=states)


def gumbel_noise(
    key: Key[Array, ""], length: Int[Array, " B"], size: int, vocab_size: int
) -> Float[Array, "size B L"]:
    """Noise of the next tokens: by row and place in the document, however these are reached."""

    def noise(row, place):
        own = jax.random.fold_in(jax.random.fold_in(key, row), place)
        return jax.random.gumbel(own, (vocab_size,))

    rows, ahead = jnp.arange(length.size), jnp.arange(size)
    return jax.vmap(jax.vmap(noise), (None, 0))(rows, length + ahead[:, None])
