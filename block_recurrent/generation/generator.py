"""Read prompts and write tokens, for a batch of documents of any length."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int

from block_recurrent.errors import UserError
from block_recurrent.fields import Range, check_value
from block_recurrent.generation.decoding import (
    DecodingState,
    begin_writing,
    initial_decoding_state,
    select_rows,
)
from block_recurrent.generation.sampling import Sampling
from block_recurrent.generation.writing import row_keys, write_tokens
from block_recurrent.model.inputs import check_shape, check_state
from block_recurrent.model.transformer import BlockRecurrentTransformer

READ_AT_ONCE = 8192  # approximate number of prompt tokens, over all rows, that one call reads
WRITE_AT_ONCE = 32  # tokens per row in one piece of a stream

Prompt = Sequence[int] | np.ndarray | jax.Array


class Piece(NamedTuple):
    """The next tokens of a stream, and the state after them.

    Attributes:
      tokens: the new tokens of each row; empty for a row that has ended.
      state: donated to the next step of the stream: do not use it after asking for another piece.
    """

    tokens: list[Int[np.ndarray, " new"]]
    state: DecodingState


class Generator:
    """Generates text with a model, at constant memory and time per token::

        generator = Generator(model)
        rows = generator.generate([prompt, other_prompt], num_tokens=100, seed=1)

        state = generator.read(generator.start(batch_size=2), [prompt, other_prompt])
        for tokens, state in generator.stream(state, num_tokens=100):
            ...                               # tokens: a list of int32 arrays, one per row

    A prompt is read in parallel, many blocks at once. Tokens are then written one by one in a
    compiled loop. As in training, every document begins with token 0, which the generator adds.

    The generator uses the parameters that the model has when the generator is created. To use other
    parameters of the same shapes, assign to `params`; nothing is compiled again.

    Args:
      model: a model with attention. With full attention, a document is read and written in
        segments, as in training, and nothing is carried from one segment to the next.
      segment_length: tokens per segment, a multiple of the window length. Required with full
        attention, ignored otherwise.

    Raises:
      UserError: the model is not a model, is an LSTM, or has full attention and the segment length
        is missing or not a multiple of the window length.
    """

    def __init__(self, model: BlockRecurrentTransformer, *, segment_length: int | None = None):
        if not isinstance(model, BlockRecurrentTransformer):
            raise UserError(
                f"model is of type {type(model).__name__}: pass a BlockRecurrentTransformer, such "
                "as the first result of load_model"
            )
        if model.config.layer == "lstm":
            raise UserError(
                "an LSTM can be trained and evaluated, but cannot generate: use another model"
            )
        self.config = model.config
        self.block_length = model.config.context_length(segment_length)
        graphdef, params = nnx.split(model)
        self.graphdef, self.params = graphdef, nnx.to_pure_dict(params)

        def start(params, batch_size):
            return initial_decoding_state(
                nnx.merge(graphdef, params), batch_size, self.block_length
            )

        def read(params, memory, tokens, rows):
            _, after = nnx.merge(graphdef, params).features(tokens, memory)
            return select_rows(rows, after, memory)

        def begin(params, state):
            model = nnx.merge(graphdef, params)
            _, after = model.features(state.block, state.memory)
            return begin_writing(model, state, after)

        def write(params, writing, key, ends, sampling, stop_tokens):
            return write_tokens(
                nnx.merge(graphdef, params),
                writing,
                row_keys(key, ends.size),
                ends,
                size=WRITE_AT_ONCE,
                sampling=sampling,
                stop_tokens=stop_tokens,
            )

        self._start = jax.jit(start, static_argnums=1)
        self._shapes = functools.cache(lambda rows: jax.eval_shape(lambda: self.start(rows)))
        self._read = jax.jit(read, donate_argnums=1)
        self._begin = jax.jit(begin, donate_argnums=1)
        self._write = jax.jit(write, static_argnums=(4, 5), donate_argnums=1)

    def generate(
        self,
        prompts: Sequence[Prompt],
        num_tokens: int,
        *,
        sampling: Sampling | None = None,
        seed: int = 0,
        stop_tokens: Sequence[int] = (),
    ) -> list[Int[np.ndarray, " new"]]:
        """Write `num_tokens` tokens after each prompt, as `stream` does, and return them.

        Raises:
          UserError: see `read` and `stream`. Also if there are no prompts.
        """
        if not len(prompts):
            raise UserError("no prompts: give at least one, such as [[]] for a new document")
        state = self.read(self.start(len(prompts)), prompts)
        pieces = self.stream(
            state, num_tokens, sampling=sampling, seed=seed, stop_tokens=stop_tokens
        )
        rows = zip(*(piece.tokens for piece in pieces), strict=True)
        return [np.concatenate(row) for row in rows] or [np.zeros(0, np.int32)] * len(prompts)

    def start(self, batch_size: int = 1) -> DecodingState:
        """The state at the beginning of a document in every row."""
        batch_size = check_value("batch_size", batch_size, Annotated[int, Range(1)])
        return self._start(self.params, batch_size)

    def read(self, state: DecodingState, prompts: Sequence[Prompt]) -> DecodingState:
        """Read a prompt of any length in each row, and return the state after it.

        The buffers of `state` are donated: do not use it again. Prompts are read in pieces of a
        power of two of blocks, so that only a few shapes are compiled.

        Raises:
          UserError: the number of prompts is not the number of rows, a prompt is not a sequence of
            tokens of the vocabulary, or the state is not a `DecodingState` of this model, or has
            been used before.
        """
        self._check_state(state)
        texts = self._append_prompts(state, prompts)
        length = self.block_length
        num_blocks = np.array([(text.size - 1) // length for text in texts])  # complete blocks
        # Full attention carries nothing from one block to the next.
        skip = self.config.segment_is_context
        num_read = num_blocks if skip else np.zeros_like(num_blocks)
        max_blocks = max(1, READ_AT_ONCE // (length * len(texts)))
        memory = state.memory
        while (remaining := num_blocks - num_read).any():
            count = 1 << (min(max_blocks, int(remaining.max())).bit_length() - 1)
            rows = remaining >= count
            tokens = np.zeros((len(texts), count * length), np.int32)
            for index in np.flatnonzero(rows):
                tokens[index] = texts[index][num_read[index] * length :][: tokens.shape[1]]
            memory = self._read(self.params, memory, tokens, rows)
            num_read = num_read + count * rows
        block = np.zeros((len(texts), length), np.int32)
        for index, text in enumerate(texts):
            rest = text[num_blocks[index] * length :]
            block[index, : rest.size] = rest
        num_new = np.array([len(prompt) for prompt in prompts], np.int32)
        return DecodingState(memory, jnp.asarray(block), state.length + num_new)

    def stream(
        self,
        state: DecodingState,
        num_tokens: int,
        *,
        sampling: Sampling | None = None,
        seed: int = 0,
        stop_tokens: Sequence[int] = (),
    ) -> Iterator[Piece]:
        """Write `num_tokens` tokens in each row, and yield them in pieces.

        The buffers of `state` are donated: do not use it again. A row ends early after one of the
        `stop_tokens`, which is part of the result. The same seed gives the same tokens, even if
        they are written by several calls, each continuing from the state of the one before.

        Raises:
          UserError: a number is not an integer, or out of range, or see `read` for the state.
        """
        self._check_state(state)
        num_tokens = check_value("num_tokens", num_tokens, Annotated[int, Range(0)])
        seed = check_value("seed", seed, Annotated[int, Range(0, below=2**32)])
        kind = Annotated[int, Range(0, below=self.config.vocab_size)]
        if isinstance(stop_tokens, Iterable):  # arrays too
            stop_tokens = tuple(stop_tokens)
        stop_tokens = check_value("stop_tokens", stop_tokens, tuple[kind, ...])
        sampling = check_value("sampling", sampling, Sampling | None)
        key, sampling = jax.random.key(seed), sampling or Sampling()
        lengths = np.asarray(state.length)
        ends, done = lengths + np.int32(num_tokens), np.zeros(lengths.shape, bool)
        if num_tokens < 1:
            return  # before `state` is donated
        writing = self._begin(self.params, state)
        while not done.all():
            tokens, writing = self._write(self.params, writing, key, ends, sampling, stop_tokens)
            before = lengths
            tokens, lengths, done = jax.device_get((tokens, writing.state.length, writing.done))
            new = [row[:count] for row, count in zip(tokens, lengths - before, strict=True)]
            yield Piece(new, writing.state)

    def _check_state(self, state: DecodingState):
        if not isinstance(state, DecodingState):
            raise UserError(
                f"state is of type {type(state).__name__}: pass what start, read or a stream of "
                "this generator returned"
            )
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
            raise UserError(
                "this state was given to an earlier call, which reused its memory: pass the state "
                "that the call returned, or a copy"
            )
        check_shape("state.block", state.block, "B", self.block_length)
        rows = len(state.block)
        check_shape("state.length", state.length, rows)
        check_state(state.memory, self._shapes(rows).memory)

    def as_tokens(self, prompt: Prompt) -> Int[np.ndarray, " length"]:
        """The prompt as an array. Raises UserError if it is not a sequence of tokens."""
        try:
            tokens = np.asarray(prompt)
        except ValueError:  # sequences of different lengths
            tokens = np.asarray(None)
        if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
            shown = repr(prompt).replace("\n", " ")
            raise UserError(
                f"a prompt is {shown[:60]}: give a sequence of integers, the tokens that the "
                "vocabulary makes of the text"
            )
        invalid = tokens[(tokens < 0) | (tokens >= self.config.vocab_size)]
        if invalid.size:
            raise UserError(
                f"a prompt contains token {invalid[0]}: the model's tokens are 0 to "
                f"{self.config.vocab_size - 1}"
            )
        return tokens.astype(np.int32)

    def _append_prompts(self, state, prompts) -> list[Int[np.ndarray, " length"]]:
        """The tokens in the current block of each row, followed by the row's prompt."""
        blocks, unread = np.asarray(state.block), np.asarray(state.unread)
        if len(prompts) != len(blocks):
            raise UserError(
                f"{len(prompts)} prompts for {len(blocks)} rows: give one prompt per row"
            )
        texts = []
        for block, position, prompt in zip(blocks, unread, prompts, strict=True):
            texts.append(np.concatenate([block[: position + 1], self.as_tokens(prompt)]))
        return texts
