"""A part of the held-out documents that can be scored in little time."""

import functools
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64, Integer

from block_recurrent.data.documents import ByteDocuments, Documents, TextCounter, fingerprint


class Excerpt:
    """`Documents` that are a sample of others: whole documents, and the head of one more.

    The documents are taken in the order of a hash of their names. Those that are too long to be
    whole in any order come last. The first one that no longer fits is cut off. So all processes and
    all runs have the same excerpt, and it hardly changes when documents are added.

    Bytes, words and characters are counted in the excerpt if the documents are read as bytes.
    Otherwise they are those of all documents, scaled by the share of the tokens.

    Args:
      documents: the documents to choose from.
      max_tokens: number of tokens of the excerpt; must be less than those of all documents.
    """

    def __init__(self, documents: Documents, max_tokens: int):
        lengths = documents.lengths
        hashes = [fingerprint([name]) for name in documents.names]
        order = np.lexsort([hashes, lengths > max_tokens])  # by the last key first
        before = np.cumsum(lengths[order]) - lengths[order]
        self.chosen = order[before < max_tokens]
        kept = np.minimum(lengths[order], max_tokens - before)[before < max_tokens]
        self.lengths: Int64[np.ndarray, " documents"] = kept
        self.whole, self.num_tokens = documents, max_tokens
        self.vocabulary, self.text_lost = documents.vocabulary, documents.text_lost
        self.fingerprint = fingerprint([f"{documents.fingerprint} {max_tokens}"])

    @property
    def names(self) -> list[str]:
        names = self.whole.names
        return [names[index] for index in self.chosen]

    @property
    def num_bytes(self) -> int:
        return self._counts[0]

    @property
    def num_words(self) -> int:
        return self._counts[1]

    @property
    def num_characters(self) -> int | None:
        return self._counts[2]

    @functools.cached_property
    def _counts(self) -> tuple[int, int, int | None]:
        """Bytes, words and characters."""
        if not isinstance(self.whole, ByteDocuments):
            totals = self.whole.num_bytes, self.whole.num_words, self.whole.num_characters
            share = self.num_tokens / self.whole.num_tokens
            return tuple(None if total is None else round(total * share) for total in totals)
        num_bytes = words = characters = 0
        for document in range(len(self.lengths)):
            raw, counter = self.raw(document), TextCounter()
            counter.add(raw)
            num_bytes += len(raw)
            words, characters = words + counter.words, characters + counter.characters
        return num_bytes, words, characters

    def tokens(self, document: int, start: int, stop: int) -> Integer[np.ndarray, " length"]:
        stop = min(stop, int(self.lengths[document]))
        return self.whole.tokens(int(self.chosen[document]), start, stop)

    def loss_weights(
        self, document: int, start: int, stop: int
    ) -> Float32[np.ndarray, " length"] | Literal[1]:
        stop = min(stop, int(self.lengths[document]))
        return self.whole.loss_weights(int(self.chosen[document]), start, stop)

    def raw(self, document: int) -> bytes:
        """All bytes of a document."""
        return self.vocabulary.decode(self.tokens(document, 0, int(self.lengths[document])))
