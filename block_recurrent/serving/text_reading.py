"""Read a text for the page, a few blocks at a time, and go on where another request ended."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from block_recurrent.analysis.reading import Reader, Reading, collect
from block_recurrent.serving.engine import READ_AT_ONCE
from block_recurrent.serving.prefix_cache import PrefixCache, block_keys

ROWS = 4  # tokens of a prompt that are read in the time of one token here, roughly


class Part(NamedTuple):
    """What some consecutive blocks of the text showed.

    Attributes:
      first: index of the first token, which begins a block.
      reading: of the tokens from there on.
    """

    first: int
    reading: Reading


class TextReading:
    """A text on its way through the model, which may become longer meanwhile.

    Args:
      reader: the model.
      states: keeps the states before the last blocks of texts that were read.
      tokens: the text.
      known: number of tokens that the client has the results of. Those of the block in which they
        end are computed again.

    Attributes:
      tokens: the text so far. Tokens may be appended between two steps.
      num_read: number of its tokens that have been read.
    """

    def __init__(
        self, reader: Reader, states: PrefixCache, tokens: Int[np.ndarray, " length"], known: int
    ):
        self._reader, self._states, self.tokens = reader, states, tokens
        self._window = reader.model.config.window_length
        self._wanted = max(0, known - 1) // self._window  # first block whose results are sent
        self._place = self._last = 0, reader.start()  # number of blocks, and the state after them
        keys = block_keys(tokens[: self._wanted * self._window], self._window)
        for block in range(len(keys), 0, -1):
            state = states.get(keys[block - 1])
            if state is not None:
                self._place = self._last = block, state
                break
        self.num_read = self._place[0] * self._window

    @property
    def finished(self) -> bool:
        """Whether the text so far has been read."""
        return self.num_read == len(self.tokens)

    def step(self) -> Part | None:
        """Read some blocks, and the last one again if it was not complete.

        Returns:
          What they showed; None if the client has it.
        """
        window, tokens, found = self._window, self.tokens, []
        first, _ = place = self._place
        count = max(1, READ_AT_ONCE // (ROWS * window))
        end = min(len(tokens), (first + count) * window)
        while place[0] * window < end:
            self._last, (block, state) = place, place
            result, after = self._reader.read_block(state, tokens, block)
            found.append(result)
            place = block + 1, after
        self._place = place if place[0] * window == end else self._last
        self.num_read = end
        known = min(len(found), max(0, self._wanted - first))
        found, first = jax.device_get(found[known:]), (first + known) * window
        jax.block_until_ready(place[1])
        return Part(first, collect(found, tokens[first:end])) if found else None

    def remember(self):
        """Keeps the state before the last block, from which another request can go on."""
        block, state = self._last
        if block:
            keys = block_keys(self.tokens[: block * self._window], self._window)
            self._states.put(keys[-1], state)
