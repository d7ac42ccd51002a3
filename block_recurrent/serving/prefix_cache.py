"""States after the beginnings of prompts, so that a common beginning is read only once."""

import collections
import hashlib

import jax
import numpy as np
from jaxtyping import Int

from block_recurrent.types import ModelState


def block_keys(text: Int[np.ndarray, " length"], block_length: int) -> list[bytes]:
    """For every complete block, the SHA-256 of all tokens up to its end."""
    keys, key = [], b""
    for end in range(block_length, len(text) + 1, block_length):
        block = np.ascontiguousarray(text[end - block_length : end], "<i4").tobytes()
        keys.append(key := hashlib.sha256(key + block).digest())
    return keys


class PrefixCache:
    """Model states by the tokens before them; the least recently used ones go first.

    All states have the same size, however many tokens they have read.

    Args:
      max_bytes: limit of the size of all states together; 0 keeps none.

    Attributes:
      num_bytes: size of the states that are kept.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._states: collections.OrderedDict[bytes, ModelState] = collections.OrderedDict()

    def get(self, key: bytes) -> ModelState | None:
        """The state after the tokens with this key, if it is kept."""
        if key in self._states:
            self._states.move_to_end(key)
        return self._states.get(key)

    def put(self, key: bytes, state: ModelState):
        """Keeps a state, and forgets others for it."""
        if key in self._states or state_bytes(state) > self.max_bytes:
            return
        self._states[key] = state
        self.num_bytes += state_bytes(state)
        while self.num_bytes > self.max_bytes:
            _, oldest = self._states.popitem(last=False)
            self.num_bytes -= state_bytes(oldest)


def state_bytes(state) -> int:
    """Size of the arrays of a state."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))
