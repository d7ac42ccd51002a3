"""Reading prompts and writing tokens, for a batch of documents of any length."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int

from block_recurrent.errors import UserError
from block_recurrent.generation.decoding import (
    DecodingState,
    begin_writing,
    initial_decoding_state,
    select_rows,
)
from block_recurrent.generation.sampling import Sampling
from block_recurrent.generation.writing import write_tokens
from block_recurrent.model.transformer import BlockRecurrentTransformer

READ_AT_ONCE = 8192  # tokens of all rows, about, in one call while a prompt is read
WRITE_AT_ONCE = 32  # tokens a row between two pieces of a stream


Prompt = Sequence[int] | np.ndarray | jax.Array


class Piece(NamedTuple):
    """The next tokens of a stream: of each row those that are new, none once it has ended.

    `state` is the one after them. It is used up when the next piece is asked for.
    """

    tokens: list[Int[np.ndarray, " new"]]
    state: DecodingState


class Generator:
    """Reads and writes documents with a model, in memory and time a token that do not grow::

        generator = Generator(model)
        rows = generator.generate([prompt, other_prompt], num_tokens=100, seed=1)

        state = generator.read(generator.start(batch_size=2), [prompt, other_prompt])
        for tokens, state in generator.stream(state, num_tokens=100):
            ...                                         # tokens: a list of int32 arrays, one a row

    A prompt is read in parallel, many blocks at once; then tokens are written one by one in a
    compiled loop. Documents begin as in training, with token 0 before their first one. The
    parameters are the model's at the time when the generator is made; `params` may be set to others
    of the same shapes, and nothing is compiled again.

    Args:
      model: with sliding-window attention; with full attention a document is read and written in
        segments, as in training, and nothing is carried from one to the next.
      segment_length: of full attention, in tokens, a multiple of the window length; elsewhere the
        model's window says all, and this is not looked at.

    Raises:
      UserError: an LSTM, or full attention without a segment length that suits.
    """

    def __init__(self, model: BlockRecurrentTransformer, *, segment_length: int | None = None):
        self.config = config = model.config
        if config.layer == "lstm":
            raise UserError("an LSTM is trained and scored here, and writes nothing: name another")
        graphdef, params = nnx.split(model)
        self.params = nnx.to_pure_dict(params)
        self.block_length = config.context_length(segment_length)

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

        def write(params, writing, key, limit, sampling, stop_tokens):
            return write_tokens(
                nnx.merge(graphdef, params),
                writing,
                key,
                limit,
                size=WRITE_AT_ONCE,
                sampling=sampling,
                stop_tokens=stop_tokens,
            )

        self._start = jax.jit(start, static_argnums=1)
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
        """The tokens after each prompt, as `stream` writes them."""
        state = self.read(self.start(len(prompts)), prompts)
        pieces = self.stream(
            state, num_tokens, sampling=sampling, seed=seed, stop_tokens=stop_tokens
        )
        rows = zip(*(piece.tokens for piece in pieces), strict=True)
        return [np.concatenate(row) for row in rows] or [np.zeros(0, np.int32)] * len(prompts)

    def start(self, batch_size: int = 1) -> DecodingState:
        """Documents at their beginning, one a row."""
        return self._start(self.params, batch_size)

    def read(self, state: DecodingState, prompts: Sequence[Prompt]) -> DecodingState:
        """The state after some more tokens in each row, of any number; `state` is used up.

        Only a few shapes are compiled: powers of two of blocks.

        Raises:
          UserError: not one prompt a row, or a token that the model does not have.
        """
        known = self._known(state, prompts)
        length = self.block_length
        whole = np.array([(row.size - 1) // length for row in known])
        # Under full attention no block tells the next one anything.
        taken = whole if self.config.segment_is_context else np.zeros_like(whole)
        most = max(1, READ_AT_ONCE // (length * len(known)))
        memory = state.memory
        while (left := whole - taken).any():
            blocks = 1 << (min(most, int(left.max())).bit_length() - 1)
            rows = left >= blocks
            tokens = np.zeros((len(known), blocks * length), np.int32)
            for index in np.flatnonzero(rows):
                tokens[index] = known[index][taken[index] * length :][: tokens.shape[1]]
            memory = self._read(self.params, memory, tokens, rows)
            taken = taken + blocks * rows
        block = np.zeros((len(known), length), np.int32)
        for index, row in enumerate(known):
            rest = row[whole[index] * length :]
            block[index, : rest.size] = rest
        grown = np.array([len(prompt) for prompt in prompts], np.int32)
        return DecodingState(memory, jnp.asarray(block), state.length + grown)

    def stream(
        self,
        state: DecodingState,
        num_tokens: int,
        *,
        sampling: Sampling | None = None,
        seed: int = 0,
        stop_tokens: Sequence[int] = (),
    ) -> Iterator[Piece]:
        """Writes `num_tokens` more in each row, some at a time; `state` is used up.

        A row ends early after one of the `stop_tokens`, which it returns too. The same seed gives
        the same tokens, also when they are written in several goes, one after the other.
        """
        key, stop_tokens = jax.random.key(seed), tuple(stop_tokens)
        sampling = sampling or Sampling()
        lengths = np.asarray(state.length)
        ends, done = lengths + num_tokens, np.zeros(lengths.shape, bool)
        if num_tokens < 1:
            return  # and `state` is as it was
        writing = self._begin(self.params, state)
        while not done.all() and (left := int((ends - lengths)[~done].max())) > 0:
            limit = min(left, WRITE_AT_ONCE)
            tokens, writing = self._write(self.params, writing, key, limit, sampling, stop_tokens)
            before = lengths
            tokens, lengths, done = jax.device_get((tokens, writing.state.length, writing.done))
            new = [row[:count] for row, count in zip(tokens, lengths - before, strict=True)]
            yield Piece(new, writing.state)

    def _known(self, state, prompts) -> list[Int[np.ndarray, " known"]]:
        """Of each row the tokens of its block and those of its prompt."""
        blocks, unread = np.asarray(state.block), np.asarray(state.unread)
        if len(prompts) != len(blocks):
            raise UserError(f"{len(prompts)} prompts for {len(blocks)} rows: give one for each")
        known = []
        for block, last, prompt in zip(blocks, unread, prompts, strict=True):
            tokens = np.asarray(prompt, np.int32).reshape(-1)
            wrong = tokens[(tokens < 0) | (tokens >= self.config.vocab_size)]
            if wrong.size:
                raise UserError(
                    f"a prompt has the token {wrong[0]}: the model has tokens from 0 to "
                    f"{self.config.vocab_size - 1}"
                )
            known.append(np.concatenate([block[: last + 1], tokens]))
        return known
