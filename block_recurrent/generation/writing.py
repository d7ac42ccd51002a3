"""The compiled loops that write tokens."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from block_recurrent.generation.decoding import Writing, append, next_block
from block_recurrent.generation.token_step import RingPositions, read_token, ring_positions
from block_recurrent.model.transformer import BlockRecurrentTransformer
from block_recurrent.types import KV

NOISE_AT_ONCE = 1 << 22  # maximum number of random numbers drawn at once: 16 MiB


# What to keep of each token: (logits, token of each row) → a pytree of arrays with rows in front.
Record = Callable[[Float[Array, "B L"], Int[Array, " B"]], Any]


class Progress(NamedTuple):
    """The carry of the loops.

    Attributes:
      records: what `record` returned for the tokens written so far, ``[B, size, …]``, in the first
        `count` columns.
      count: number of columns written.
      writing: the state of all rows.
    """

    records: Any
    count: Int[Array, ""]
    writing: Writing


def write_tokens(
    model: BlockRecurrentTransformer,
    writing: Writing,
    keys: Key[Array, " B"],
    ends: Int[Array, " B"],
    *,
    size: int,
    sampling: Callable,
    stop_tokens: tuple[int, ...],
    record: Record = lambda logits, tokens: tokens,
) -> tuple[Any, Writing]:
    """Write up to `size` tokens per row; fewer when every row is done.

    Three loops are nested: over pieces whose noise is drawn at once, over blocks, and over tokens.

    Args:
      model: the model.
      writing: the state of all rows.
      keys: the random key of each row.
      ends: the length of each document at which its row is done.
      size: maximum number of tokens per row.
      sampling: chooses the tokens: (logits, noise) → tokens, as `Sampling` does.
      stop_tokens: tokens after which a row is done.
      record: what to keep of each token, by default the token.

    Returns:
      What `record` returned, ``[B, size, …]``, and the state after it.
    """
    rows, vocab_size = writing.done.size, model.config.vocab_size
    in_order = ring_positions(model, writing.state.block.shape[1])
    piece = min(size, max(1, NOISE_AT_ONCE // (rows * vocab_size)))

    def unfinished(progress):
        return (progress.count < size) & ~progress.writing.done.all()

    def write_piece(progress):
        first = progress.count
        end = jnp.minimum(size, first + piece)
        # XLA removes this where the temperature is 0.
        noise = gumbel_noise(keys, progress.writing.state.length, piece, vocab_size)

        def write(progress, states):
            own_noise = noise[progress.count - first]
            token = write_token(model, progress, states, in_order, own_noise, sampling, record)
            return end_rows(token, ends, stop_tokens)

        return jax.lax.while_loop(
            lambda progress: unfinished(progress) & (progress.count < end),
            lambda progress: write_to_block_end(model, write, end, progress),
            progress,
        )

    kept = jax.eval_shape(
        record,
        jax.ShapeDtypeStruct((rows, vocab_size), jnp.float32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )
    records = jax.tree.map(lambda x: jnp.zeros((rows, size, *x.shape[1:]), x.dtype), kept)
    progress = Progress(records, jnp.zeros((), jnp.int32), writing)
    progress = jax.lax.while_loop(unfinished, write_piece, progress)
    return progress.records, progress.writing


def write_token(
    model: BlockRecurrentTransformer,
    progress: Progress,
    states: tuple[KV | None, ...],
    in_order: RingPositions,
    noise: Float[Array, "B L"],
    sampling: Callable,
    record: Record,
) -> tuple[Progress, Int[Array, " B"]]:
    """Read the newest token of each row, and write the next one, which is also returned."""
    records, count, (state, _, rings, done) = progress
    unread = state.unread
    token = jnp.take_along_axis(state.block, unread[:, None], axis=1)[:, 0]
    logits, rings = read_token(model, token, rings, in_order, unread, states)
    new = sampling(logits, noise)
    records = jax.tree.map(
        lambda kept, one: jax.lax.dynamic_update_slice_in_dim(kept, one[:, None], count, axis=1),
        records,
        record(logits, new),
    )
    writing = Writing(append(state, new, done), (), rings, done)
    return Progress(records, count + 1, writing), new


def end_rows(
    written: tuple[Progress, Int[Array, " B"]],
    ends: Int[Array, " B"],
    stop_tokens: tuple[int, ...],
) -> Progress:
    """Marks the rows as done that wrote a stop token, or whose document is long enough."""
    progress, new = written
    done = progress.writing.done | (progress.writing.state.length >= ends)
    for stop in stop_tokens:
        done = done | (new == stop)
    return progress._replace(writing=progress.writing._replace(done=done))


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


def row_keys(key: Key[Array, ""], rows: int) -> Key[Array, " B"]:
    """The keys of the rows of a batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))


def gumbel_noise(
    keys: Key[Array, " B"], length: Int[Array, " B"], size: int, vocab_size: int
) -> Float[Array, "size B L"]:
    """Gumbel noise for the next `size` tokens.

    It depends only on the row's key and the position in the document. So the same keys give the
    same tokens, even if they are written by several calls.
    """

    def noise(key, position):
        return jax.random.gumbel(jax.random.fold_in(key, position), (vocab_size,))

    ahead = jnp.arange(size)
    return jax.vmap(jax.vmap(noise), (None, 0))(keys, length + ahead[:, None])
