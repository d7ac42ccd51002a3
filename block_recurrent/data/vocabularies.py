"""Vocabularies: between bytes and token ids."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt16

PADDING = 0  # also what a model reads before a document's first token
END = 1  # the last token of every document
UNKNOWN = 2
SPECIAL = 3  # ids before the first byte


@runtime_checkable
class Vocabulary(Protocol):
    """What the rest of the package asks of a vocabulary; ids are below `size`."""

    size: int

    def encode(self, text: bytes) -> Integer[np.ndarray, " length"]:
        """The ids of `text`, with no end of document."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes that `ids` stand for; special ids stand for none."""


class ByteVocabulary:
    """seqio's ByteVocabulary: byte b is id b + 3, after padding (0), end (1) and unknown (2).

    The size is the paper's 260, one more than is ever used.
    """

    size = 260

    def encode(self, text: bytes) -> UInt16[np.ndarray, " length"]:
        return np.add(np.frombuffer(text, np.uint8), SPECIAL, dtype=np.uint16)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        ids = np.asarray(ids, np.int64)
        is_byte = (ids >= SPECIAL) & (ids < SPECIAL + 256)
        return (ids[is_byte] - SPECIAL).astype(np.uint8).tobytes()
