"""A mixture of several collections of documents."""

import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64, Integer

from block_recurrent.data.documents import Documents, fingerprint
from block_recurrent.data.extents import Extent, Stored
from block_recurrent.errors import UserError


class Mixture:
    """The documents of several sources, one source after another, and the sources' weights.

    Args:
      sources: one or more collections with the same vocabulary.
      weights: one per source. Training reads numbers of tokens from the sources in this proportion.

    Attributes:
      offsets: the index of each source's first document.

    Raises:
      UserError: a weight is not positive, their number is wrong, or the vocabularies differ.
    """

    def __init__(self, sources: Sequence[Documents], weights: Sequence[float]):
        if len(weights) != len(sources) or not all(weight > 0 for weight in weights):
            raise UserError(
                f"data.weights = {tuple(weights)}: give {len(sources)} positive numbers, one per "
                "store"
            )
        vocabularies = sorted({source.vocabulary.name for source in sources})
        if len(vocabularies) > 1:
            raise UserError(
                f"the stores have different vocabularies ({', '.join(vocabularies)}): prepare them "
                "with the same one"
            )
        self.sources, self.weights = list(sources), list(weights)
        self.vocabulary = sources[0].vocabulary
        lengths = [source.lengths for source in sources]
        self.lengths: Int64[np.ndarray, " documents"] = (
            lengths[0] if len(lengths) == 1 else np.concatenate(lengths)
        )
        self.offsets = [0, *np.cumsum([len(one) for one in lengths[:-1]]).tolist()]

    @property
    def names(self) -> list[str]:
        return [name for source in self.sources for name in source.names]

    @property
    def num_tokens(self) -> int:
        return sum(source.num_tokens for source in self.sources)

    @property
    def num_bytes(self) -> int:
        return sum(source.num_bytes for source in self.sources)

    @property
    def num_words(self) -> int:
        return sum(source.num_words for source in self.sources)

    @property
    def num_characters(self) -> int | None:
        counts = [source.num_characters for source in self.sources]
        return None if None in counts else sum(counts)

    @property
    def text_lost(self) -> float | None:
        shares = [source.text_lost for source in self.sources]
        sizes = [source.num_bytes for source in self.sources]
        return None if None in shares else float(np.average(shares, weights=sizes))

    @property
    def bytes_per_token(self) -> float:
        """Mean number of bytes per token in training, weighted by source."""
        rates = [source.num_bytes / source.num_tokens for source in self.sources]
        return float(np.average(rates, weights=self.weights))

    @functools.cached_property
    def fingerprint(self) -> int:
        numbers = zip(self.sources, self.weights, strict=True)
        return fingerprint(f"{source.fingerprint} {weight}" for source, weight in numbers)

    def extents(self) -> list[Extent]:
        """The bytes of all sources."""
        stored = (source for source in self.sources if isinstance(source, Stored))
        return [extent for source in stored for extent in source.extents()]

    @functools.cached_property
    def longest_first(self) -> list[Int64[np.ndarray, " documents"]]:
        """For each source, the indices of its documents, longest first."""
        return [np.argsort(-source.lengths, kind="stable") for source in self.sources]

    def tokens(self, document: int, start: int, stop: int) -> Integer[np.ndarray, " length"]:
        source, document = self._locate(document)
        return source.tokens(document, start, stop)

    def loss_weights(
        self, document: int, start: int, stop: int
    ) -> Float32[np.ndarray, " length"] | Literal[1]:
        source, document = self._locate(document)
        return source.loss_weights(document, start, stop)

    def _locate(self, document: int) -> tuple[Documents, int]:
        """The source of a document, and its index in that source."""
        index = int(np.searchsorted(self.offsets, document, side="right")) - 1
        return self.sources[index], document - self.offsets[index]
