"""Read prompts step by step, so that others can be served in between."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int

from block_recurrent.generation.decoding import BEGIN, DecodingState
from block_recurrent.generation.generator import Generator
from block_recurrent.serving.logprobs import TokenScores, score_tokens
from block_recurrent.serving.prefix_cache import PrefixCache, block_keys

READ_AT_ONCE = 1024  # approximate number of tokens of the longest step


class Reader:
    """What all prompts share: compiled functions and the cache.

    A prompt is read one row at a time, in chunks of `chunk` blocks that begin at multiples of
    `chunk`, and then block by block. So the state after a number of blocks is always computed by
    the same steps, and a state from the cache has the same bits as one that is computed again.

    Args:
      generator: the model.
      cache: keeps the states after all steps.
    """

    def __init__(self, generator: Generator, cache: PrefixCache):
        self.generator, self.cache = generator, cache
        self.block_length = length = generator.block_length
        # With full attention, one call reads one segment.
        is_context = generator.config.segment_is_context
        self.chunk = 1 if is_context else max(1, READ_AT_ONCE // length)
        self.beginning = generator.start(1)

        def read(params, memory, tokens):
            return nnx.merge(generator.graphdef, params).features(tokens, memory)[1]

        def score(params, memory, tokens, targets):
            model = nnx.merge(generator.graphdef, params)
            features, after = model.features(tokens, memory)
            blocks = features.reshape(-1, length, features.shape[-1]), targets.reshape(-1, length)
            scores = jax.lax.map(
                lambda block: score_tokens(model.readout(block[0]), block[1]), blocks
            )
            return after, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), scores)

        self._read, self._score = jax.jit(read), jax.jit(score)

    def read(self, memory, tokens: Int[np.ndarray, " length"]):
        """The model's state after whole blocks."""
        return self._read(self.generator.params, memory, tokens[None])

    def score(
        self, memory, tokens: Int[np.ndarray, " length"], targets: Int[np.ndarray, " length"]
    ):
        """The model's state after whole blocks, and the scores of the tokens that follow theirs."""
        return self._score(self.generator.params, memory, tokens[None], targets)


class Reading:
    """One prompt on its way through the model.

    Args:
      reader: what all prompts share.
      tokens: the prompt.
      state: of one row, after which the prompt is read; None: the start of a document.
      scored: whether to compute the scores of the prompt's tokens. The cache is then not used.

    Attributes:
      cached: number of tokens that the cache made it unnecessary to read.
      finished: whether everything has been read.
    """

    def __init__(
        self,
        reader: Reader,
        tokens: Int[np.ndarray, " length"],
        state: DecodingState | None = None,
        *,
        scored: bool = False,
    ):
        self.reader, self.scored, self.cached = reader, scored, 0
        self._length = 1 if state is None else int(state.length[0])
        before = (
            [BEGIN] if state is None else np.asarray(state.block)[0, : int(state.unread[0]) + 1]
        )
        self._text = np.concatenate([before, tokens]).astype(np.int32)
        self._length += len(tokens)
        size = reader.block_length
        # Numbers of blocks, in the document: after the text, and after what has been read.
        self._end = (self._length - 1) // size
        self._first = self._done = self._end - (len(self._text) - 1) // size
        self._memory = (reader.beginning if state is None else state).memory
        self._scores: list[TokenScores] = []
        self._keys = None
        if state is None and not scored:
            self._keys = block_keys(self._text[: self._end * size], size)
            self._use_cache()
        self.finished = self._done == self._end and not self._last_is_scored

    def step(self) -> int:
        """Read one chunk or one block, and return the number of its tokens."""
        reader, size = self.reader, self.reader.block_length
        in_chunks = self._done % reader.chunk == 0 and self._end - self._done >= reader.chunk
        first = (self._done - self._first) * size
        tokens = self._text[first : first + (reader.chunk if in_chunks else 1) * size]
        if self._done == self._end:
            self._score(np.pad(tokens, (0, size - len(tokens))), first)
            self.finished = True
            return size
        if self.scored:
            self._memory = self._score(tokens, first)
        else:
            self._memory = reader.read(self._memory, tokens)
        self._done += len(tokens) // size
        if self._keys:
            reader.cache.put(self._keys[self._done - 1], self._memory)
        self.finished = self._done == self._end and not self._last_is_scored
        return len(tokens)

    @property
    def state(self) -> DecodingState:
        """The state after the prompt."""
        rest = self._text[(self._end - self._first) * self.reader.block_length :]
        block = np.zeros((1, self.reader.block_length), np.int32)
        block[0, : rest.size] = rest
        return DecodingState(self._memory, jnp.asarray(block), jnp.array([self._length], jnp.int32))

    @property
    def scores(self) -> TokenScores | None:
        """The scores of the prompt's tokens; None if not asked for, or if there are none."""
        if not self._scores:
            return None
        return jax.tree.map(lambda *parts: np.concatenate(parts), *self._scores)

    @property
    def _last_is_scored(self) -> bool:
        """Whether the last block, which is not complete, has tokens to score, or none was."""
        size = self.reader.block_length
        return self.scored and (len(self._text) > (self._end - self._first) * size + 1)

    def _score(self, tokens, first):
        """Scores the tokens after `tokens`, as far as they are in the text."""
        targets = self._text[first + 1 : first + 1 + len(tokens)]
        padded = np.pad(targets, (0, len(tokens) - len(targets)))
        memory, scores = self.reader.score(self._memory, tokens, padded)
        self._scores.append(jax.tree.map(lambda leaf: np.asarray(leaf)[: len(targets)], scores))
        return memory

    def _use_cache(self):
        """Begins after the longest beginning whose state is in the cache.

        Only states that reading all of this prompt would compute are looked for: single blocks are
        read after the last chunk.
        """
        chunk = self.reader.chunk
        last = self._end // chunk * chunk
        for done in [*range(self._end, last, -1), *range(last, 0, -chunk)]:
            memory = self.reader.cache.get(self._keys[done - 1])
            if memory is not None:
                self._memory, self._done = memory, done
                self.cached = done * self.reader.block_length - 1  # without BEGIN
                return
