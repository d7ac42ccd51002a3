"""How numbers per byte, character or word are marked if the vocabulary loses some of the text."""

from collections.abc import Mapping
from typing import Any

NEGLIGIBLE_LOSS = 0.001  # share of the text
AFFECTED = ("bits_per_byte", "bits_per_character", "word_perplexity")


def lossy_mark(metrics: Mapping[str, Any], name: str = "bits_per_byte") -> str:
    """A mark to print after a metric; empty if it can be compared across vocabularies.

    The bits of a lossy vocabulary leave out what it loses, but the bytes, characters and words
    that they are divided by do not.

    Args:
      metrics: with "text_lost", the share of the text that is lost, if there is any.
      name: the metric.
    """
    lost = metrics.get("text_lost", 0.0)
    if name not in AFFECTED or lost <= NEGLIGIBLE_LOSS:
        return ""
    return f" (not comparable: the vocabulary loses {lost:.2%} of the text)"
