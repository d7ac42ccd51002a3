"""A running batch: its rows are taken and released while the others are written."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt32

from block_recurrent.generation.decoding import (
    DecodingState,
    Writing,
    begin_writing,
    initial_decoding_state,
)
from block_recurrent.generation.generator import Generator
from block_recurrent.generation.sampling import RowSampling
from block_recurrent.generation.writing import write_tokens
from block_recurrent.serving.logprobs import TokenScores, no_scores, score_tokens

WRITE_AT_ONCE = 16  # tokens per row between two moments at which rows can change hands


class RowOptions(NamedTuple):
    """What belongs to the rows' requests. An array of NumPy each, changed in place.

    Attributes:
      active: whether the row is written.
      seed: determines the random numbers, with `choice` and the position in the document.
      choice: number of the continuation of the same prompt.
      end: length of the document at which the row ends.
      temperature, top_p: see `RowSampling`.
      scored: whether the scores of the tokens are wanted.
    """

    active: Bool[np.ndarray, " B"]
    seed: UInt32[np.ndarray, " B"]
    choice: Int[np.ndarray, " B"]
    end: Int[np.ndarray, " B"]
    temperature: Float[np.ndarray, " B"]
    top_p: Float[np.ndarray, " B"]
    scored: Bool[np.ndarray, " B"]


class RowTokens(NamedTuple):
    """The tokens that one piece has written.

    Attributes:
      tokens: the new tokens are the first `counts` of each row.
      scores: their scores; zeros if no row wants them.
      counts: number of new tokens of each row.
      ended: whether the row has written its last token.
    """

    tokens: Int[np.ndarray, "B size"]
    scores: TokenScores
    counts: Int[np.ndarray, " B"]
    ended: Bool[np.ndarray, " B"]


class Rows:
    """A batch of `count` rows with requests of their own.

    The batch always has the same shape, and a row computes nothing from other rows. So a request
    gets the same tokens in any row and any company. Only the order in which attention adds up the
    keys depends on the moment at which the row was taken, because all rows share the slot of the
    ring buffers: scores can differ in their last digits.

    Args:
      generator: the model.
      count: number of rows.
      stop_tokens: tokens after which a row ends.
    """

    def __init__(self, generator: Generator, count: int, stop_tokens: tuple[int, ...]):
        self.generator = generator

        def begin(params, state):
            model = nnx.merge(generator.graphdef, params)
            _, after = model.features(state.block, state.memory)
            return begin_writing(model, state, after)

        def empty(params):
            model = nnx.merge(generator.graphdef, params)
            state = initial_decoding_state(model, count, generator.block_length)
            return begin(params, state)

        def write(params, writing, options):
            sampling = RowSampling(options.temperature, options.top_p)
            keys = jax.vmap(lambda seed, row: jax.random.fold_in(jax.random.key(seed), row))

            def record(logits, tokens):
                wanted = (options.scored & options.active).any()
                return tokens, jax.lax.cond(wanted, score_tokens, no_scores, logits, tokens)

            (tokens, scores), writing = write_tokens(
                nnx.merge(generator.graphdef, params),
                writing._replace(done=~options.active),
                keys(options.seed, options.choice),
                options.end,
                size=WRITE_AT_ONCE,
                sampling=sampling,
                stop_tokens=stop_tokens,
                record=record,
            )
            return (tokens, scores, writing.state.length, writing.done), writing

        self._begin = jax.jit(begin)
        self._insert = jax.jit(insert, donate_argnums=0)
        self._write = jax.jit(write, donate_argnums=1)
        self._writing = jax.jit(empty)(generator.params)
        self._lengths = np.ones(count, np.int32)
        self.options = RowOptions(
            *(np.zeros(count, dtype) for dtype in (bool, np.uint32, np.int32, np.int32)),
            np.ones(count, np.float32),
            np.ones(count, np.float32),
            np.zeros(count, bool),
        )

    def begin(self, state: DecodingState) -> Writing:
        """Prepares the state of one document for `take`. This reads its current block."""
        return self._begin(self.generator.params, state)

    def take(self, row: int, one: Writing, length: int, **options):
        """Lets a row continue a document of this length. `options` are those of `RowOptions`."""
        self._writing = self._insert(self._writing, one, row)
        self._lengths[row] = length
        for name, value in (options | {"active": True}).items():
            getattr(self.options, name)[row] = value

    def release(self, row: int):
        """Ends a row."""
        self.options.active[row] = False

    def write(self) -> RowTokens:
        """Writes up to `WRITE_AT_ONCE` tokens in each active row."""
        found, self._writing = self._write(self.generator.params, self._writing, self.options)
        tokens, scores, lengths, done = jax.device_get(found)
        counts, self._lengths = lengths - self._lengths, np.array(lengths)
        return RowTokens(tokens, scores, counts, done)


def insert(writing: Writing, one: Writing, row: Int[Array, ""]) -> Writing:
    """Puts the only row of `one` into a row of `writing`."""

    def put(leaf, new):
        return jax.lax.dynamic_update_slice_in_dim(leaf, new.astype(leaf.dtype), row, axis=0)

    def put_heads(leaf, new):  # rows and heads share an axis
        return jax.lax.dynamic_update_slice_in_dim(leaf, new, row * len(new), axis=0)

    rings, own, slot = writing.rings, one.rings, writing.rings.slot
    turned = jax.tree.map(lambda leaf: jnp.roll(leaf, slot + 1, axis=1), own.layers)
    rings = rings._replace(
        layers=jax.tree.map(put_heads, rings.layers, turned),
        newest=jax.tree.map(put_heads, rings.newest, own.newest),
        tokens=jax.tree.map(put, rings.tokens, own.tokens),
    )
    state, states = jax.tree.map(put, (writing.state, writing.states), (one.state, one.states))
    return Writing(state, states, rings, put(writing.done, one.done))
