"""The compiled loops that write tokens."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from block_recurrent.generation.decoding import Writing, append, next_block
from block_recurrent.generation.sampling import Sampling
from block_recurrent.generation.token_step import RingPositions, read_token, ring_positions
from block_recurrent.model.transformer import BlockRecurrentTransformer
from block_recurrent.types import KV

NOISE_AT_ONCE = 1 << 22  # maximum number of random numbers drawn at once: 16 MiB


class Progress(NamedTuple):
    """The carry of the loops.

    Attributes:
      tokens: the tokens written so far, in the first `count` columns.
      count: number of columns written.
      writing: the state of all rows.
    """

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
    """Write up to `limit` ≤ `size` tokens per row; fewer when every row is done.

    Three loops are nested: over pieces whose noise is drawn at once, over blocks, and over tokens.
    """
    rows, vocab_size = writing.done.size, model.config.vocab_size
    in_order = ring_positions(model, writing.state.block.shape[1])
    piece = min(size, max(1, NOISE_AT_ONCE // (rows * vocab_size)))

    def unfinished(progress):
        return (progress.count < limit) & ~progress.writing.done.all()

    def write_piece(progress):
        first = progress.count
        end = jnp.minimum(limit, first + piece)
        # XLA removes this where the temperature is 0.
        noise = gumbel_noise(key, progress.writing.state.length, piece, vocab_size)

        def write(progress, states):
            own_noise = noise[progress.count - first]
            return write_token(model, progress, states, in_order, own_noise, sampling, stop_tokens)

        return jax.lax.while_loop(
            lambda progress: unfinished(progress) & (progress.count < end),
            lambda progress: write_to_block_end(model, write, end, progress),
            progress,
        )

    tokens = jnp.zeros((rows, size), jnp.int32)
    progress = Progress(tokens, jnp.zeros((), jnp.int32), writing)
    progress = jax.lax.while_loop(unfinished, write_piece, progress)
    return progress.tokens, progress.writing


def write_token(
    model: BlockRecurrentTransformer,
    progress: Progress,
    states: tuple[KV | None, ...],
    in_order: RingPositions,
    noise: Float[Array, "B L"],
    sampling: Sampling,
    stop_tokens: tuple[int, ...],
) -> Progress:
    """Read the newest token of each row, and write the next one."""
    tokens, count, (state, _, rings, done) = progress
    unread = state.unread
    token = jnp.take_along_axis(state.block, unread[:, None], axis=1)[:, 0]
    logits, rings = read_token(model, token, rings, in_order, unread, states)
    new = sampling(logits, noise)
    state = append(state, new, done)
    tokens = jax.lax.dynamic_update_slice(tokens, new[:, None], (0, count))
    for stop in stop_tokens:
        done = done | (new == stop)
    return Progress(tokens, count + 1, Writing(state, (), rings, done))


def write_to_block_end(
    model: BlockRecurrentTransformer, write: Callable, limit: Int[Array, ""], progress: Progress
) -> Progress:
    """Write until the block of some row is full, or `limit` tokens are written.

    Within a block, memory and recurrent states do not change. So the loop over tokens does not
    carry them; it uses them as constants.

    Args:
      model: the model.
      write: writes one token: (progress, states) → progress.
      limit: maximum of `progress.count`.
      progress: the progress to start from.
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

    stripped = progress._replace(writing=_with_memory(progress.writing, (), ()))
    progress, full = jax.lax.while_loop(before_end, step, (stripped, jnp.zeros(steps.shape, bool)))
    memory, states = next_block(model, state.memory, states, progress.writing.rings, full)
    return progress._replace(writing=_with_memory(progress.writing, memory, states))


def _with_memory(writing: Writing, memory: tuple, states: tuple) -> Writing:
    return writing._replace(state=writing.state._replace(memory=memory), states=states)


def gumbel_noise(
    key: Key[Array, ""], length: Int[Array, " B"], size: int, vocab_size: int
) -> Float[Array, "size B L"]:
    """Gumbel noise for the next `size` tokens.

    It depends only on the key, the row and the position in the document. So the same seed gives the
    same tokens, even if they are written by several calls.
    """

    def noise(row, position):
        own_key = jax.random.fold_in(jax.random.fold_in(key, row), position)
        return jax.random.gumbel(own_key, (vocab_size,))

    rows, ahead = jnp.arange(length.size), jnp.arange(size)
    return jax.vmap(jax.vmap(noise), (None, 0))(rows, length + ahead[:, None])
