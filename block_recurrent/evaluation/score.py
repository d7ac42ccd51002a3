"""How well documents are predicted, by a model and by general compressors."""

import dataclasses
import gzip
import lzma
import math

from block_recurrent.data.documents import ByteDocuments
from block_recurrent.evaluation.excerpt import Excerpt
from block_recurrent.evaluation.loss_profile import Profile

# With more bytes per word than this, "words" are phrases or lines of a script without spaces, or
# data. English has 6, source code 11; Russian and Hindi, whose letters have two and three bytes,
# have about 15. Chinese verse, whose lines are short, has 31.
MAX_BYTES_PER_WORD = 30
MAX_EXPONENT = 709  # of e, in a float


@dataclasses.dataclass(frozen=True)
class Score:
    """How well a model predicts documents: the loss over all their tokens.

    Attributes:
      profile: sums over tokens, by distance from the start of the document.
      num_bytes: raw bytes of the documents, scaled by the share of tokens that count in the loss.
      num_words: words of the raw documents, scaled likewise.
      num_characters: characters of the raw documents, scaled likewise; None if not counted.
      text_lost: share of the documents' bytes that their tokens do not keep; None if not counted.
    """

    profile: Profile
    num_bytes: int
    num_words: int
    num_characters: int | None
    text_lost: float | None = None

    @property
    def nats(self) -> float:
        """The loss summed over all tokens."""
        return float(self.profile.nats.sum())

    @property
    def num_tokens(self) -> int:
        """Number of tokens predicted, including the end of every document."""
        return int(self.profile.tokens.sum())

    @property
    def has_words(self) -> bool:
        """Whether the text separates its words by white space."""
        return 0 < self.num_words and self.num_bytes <= MAX_BYTES_PER_WORD * self.num_words

    def metrics(self) -> dict[str, float]:
        """loss (nats per token), accuracy, bits per token, byte and character, word perplexity.

        Word perplexity is the exponential of the nats per word, as reported for PG19 (Rae et al.
        2020): it compares models with different vocabularies. It is left out if the text has no
        words (see `has_words`) or if the number is too large, and bits per character if there are
        no characters. The other metrics are NaN if there is nothing to divide by.
        `text_lost` is there if it is not 0.
        """
        bits = self.nats / math.log(2)
        num_tokens, num_bytes = self.num_tokens or math.nan, self.num_bytes or math.nan
        metrics = {
            "loss": self.nats / num_tokens,
            "accuracy": float(self.profile.correct.sum()) / num_tokens,
            "bits_per_token": bits / num_tokens,
            "bits_per_byte": bits / num_bytes,
        }
        if self.num_characters:
            metrics["bits_per_character"] = bits / self.num_characters
        if self.has_words and (nats := self.nats / self.num_words) < MAX_EXPONENT:
            metrics["word_perplexity"] = math.exp(nats)
        if self.text_lost:
            metrics["text_lost"] = self.text_lost
        return metrics


def compressed_bits_per_byte(documents: ByteDocuments | Excerpt) -> dict[str, float]:
    """Bits per raw byte of general compressors, for comparison with a model.

    Each document is compressed separately, as the model reads it.
    """
    sizes = {"gzip -9": 0, "xz -9e": 0}
    for document in range(len(documents.names)):
        raw = documents.raw(document)
        sizes["gzip -9"] += len(gzip.compress(raw, 9))
        sizes["xz -9e"] += len(lzma.compress(raw, filters=[_xz_filter(len(raw))]))
    num_bytes = documents.num_bytes or math.nan
    return {name: 8 * size / num_bytes for name, size in sizes.items()}


def _xz_filter(num_bytes: int) -> dict[str, int]:
    """The filter of xz -9e with a dictionary no longer than the document.

    The smaller dictionary compresses equally well and is 16 times faster.
    """
    return {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": min(max(num_bytes, 2**12), 2**26),
    }
