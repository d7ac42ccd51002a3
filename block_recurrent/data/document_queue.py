"""The order in which documents are taken, over all sources and epochs."""

import numpy as np
from grain.experimental import index_shuffle
from jaxtyping import Int64

from block_recurrent.data.mixture import Mixture

NO_DOCUMENT = -1  # instead of the index of a document


class DocumentQueue:
    """The queue of documents that no lane has taken yet.

    Args:
      documents: the sources and their weights.
      epoch: the current epoch of each source, from 0.
      next_document: number of documents taken from each source in this epoch.
      taken: number of tokens of all documents taken from each source in all epochs.
      seed: seed of the order of documents, which differs between epochs.
      shuffle: if False, the longest documents come first.
      repeat: if False, the queue ends after one epoch.
    """

    def __init__(
        self,
        documents: Mixture,
        epoch: Int64[np.ndarray, " sources"],
        next_document: Int64[np.ndarray, " sources"],
        taken: Int64[np.ndarray, " sources"],
        *,
        seed: int,
        shuffle: bool,
        repeat: bool,
    ):
        self.documents, self.seed, self.shuffle, self.repeat = documents, seed, shuffle, repeat
        self.counts = [len(source.lengths) for source in documents.sources]
        self.epoch, self.next_document, self.taken = (
            [int(number) for number in numbers] for numbers in (epoch, next_document, taken)
        )

    def counters(self) -> dict[str, Int64[np.ndarray, " sources"]]:
        """The arguments with which another queue continues where this one is."""
        names = ("epoch", "next_document", "taken")
        return {name: np.array(getattr(self, name), np.int64) for name in names}

    def pop(self) -> int:
        """The index of the next document that has tokens, or −1 if no document is left."""
        while (source := self._next_source()) is not None:
            if self.next_document[source] == self.counts[source]:
                self.epoch[source], self.next_document[source] = self.epoch[source] + 1, 0
            document = self._next_of(source)
            self.next_document[source] += 1
            length = int(self.documents.lengths[document])
            self.taken[source] += length
            if length:
                return document
        return NO_DOCUMENT

    def _next_source(self) -> int | None:
        """The source with the fewest taken tokens per weight; None if all have run out."""
        tokens_per_weight = {
            source: self.taken[source] / weight
            for source, weight in enumerate(self.documents.weights)
            if self.repeat or self.next_document[source] < self.counts[source]
        }
        return min(tokens_per_weight, key=tokens_per_weight.get, default=None)

    def _next_of(self, source: int) -> int:
        """The index of the next document in the order of the source and epoch."""
        count, index = self.counts[source], self.next_document[source]
        if self.shuffle:
            seeds = np.random.SeedSequence([self.seed, source, self.epoch[source]])
            seed = int(seeds.generate_state(1)[0])
            index = index_shuffle(index, max_index=count - 1, seed=seed, rounds=4)
        else:
            index = int(self.documents.longest_first[source][index])
        return self.documents.offsets[source] + index
