"""Documents that wait to be written together, since many are short."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer

from block_recurrent.data.documents import count_characters, word_starts


class Batch(NamedTuple):
    """What is written at once.

    Attributes:
      tokens: of all documents, and of the start of the one that goes on.
      documents: tokens, bytes and words of the documents that have ended.
      characters: number of characters of the text.
    """

    tokens: np.ndarray
    documents: Int64[np.ndarray, "documents 3"]
    characters: int


class DocumentBatch:
    """Collects pieces of documents, and counts what is in them, for many documents at once.

    Attributes:
      size: bytes of text and tokens that are waiting.
    """

    def __init__(self):
        self._counts = np.zeros(3, np.int64)  # of the document that goes on, in earlier batches
        self._after_space = True  # whether that document, so far, ends in white space
        self._clear()

    def _clear(self):
        self.size = 0
        self._tokens: list[np.ndarray] = []
        self._texts: list[bytes] = []
        self._ends: list[int] = []  # number of pieces at the end of each document

    def add(self, tokens: Integer[np.ndarray, " length"], text: bytes):
        """Adds a piece of the current document."""
        self._tokens.append(tokens)
        self._texts.append(text)
        self.size += len(text) + tokens.nbytes

    def end_document(self):
        """Ends the current document."""
        self._ends.append(len(self._texts))

    def take(self) -> Batch:
        """All that is waiting. The current document may go on afterwards."""
        text, pieces = b"".join(self._texts), np.array([0, *self._ends, len(self._texts)])
        num_tokens = np.cumsum([0, *map(len, self._tokens)])[pieces]
        num_bytes = np.cumsum([0, *map(len, self._texts)])[pieces]
        num_words = np.zeros_like(num_bytes)
        if text:
            starts = num_bytes[1:-1]
            begins = word_starts(text, self._after_space, starts[starts < len(text)])
            num_words = np.searchsorted(begins, num_bytes)
        counts = np.diff([num_tokens, num_bytes, num_words]).T
        counts[0] += self._counts
        self._counts = counts[-1]
        if self._ends or text:
            self._after_space = bool(num_bytes[-2] == len(text)) or text[-1:].isspace()
        tokens = np.concatenate(self._tokens) if self._tokens else np.empty(0, np.uint16)
        self._clear()
        return Batch(tokens, counts[:-1], count_characters(text))
