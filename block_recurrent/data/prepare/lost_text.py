"""Counts what the tokens of a store do not keep of its text."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Integer

from block_recurrent.console.lossy import NEGLIGIBLE_LOSS
from block_recurrent.data.store_format import share_lost
from block_recurrent.data.vocabularies import Vocabulary
from block_recurrent.errors import UserError

COMPARED_WHOLE = 2**18  # the first bytes of a shard are all compared, and
COMPARED_SHARE = 32  # of the others one in so many


class LostText:
    """Compares texts with what their tokens decode to.

    Decoding everything would take up to half of the time of encoding. So of a shard's text after
    the first 256 KiB, every 32nd byte is compared, in whole pieces. All unknown tokens are counted.

    Args:
      vocabulary: what made the tokens.

    Attributes:
      unknown: number of unknown tokens.
      compared_bytes: number of bytes that were compared.
      lost_bytes: how many of them, at least, did not come back. The order of bytes is not compared.
    """

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self.unknown = self.compared_bytes = self.lost_bytes = self._seen = 0

    def add(self, tokens: Integer[np.ndarray, " length"], text: bytes):
        """Adds the tokens of a text."""
        self.unknown += int(np.count_nonzero(tokens == self._vocabulary.unknown_id))
        behind = COMPARED_SHARE * (self.compared_bytes - COMPARED_WHOLE)
        if behind <= self._seen - COMPARED_WHOLE:
            self.compared_bytes += len(text)
            self.lost_bytes += _missing_bytes(text, self._vocabulary.decode(tokens))
        self._seen += len(text)


def check_lost_text(task: str, counts: Mapping[str, int], allowed: bool):
    """Checks that the vocabulary keeps the text.

    Args:
      task: name of the Task, for the message.
      counts: sums over all shards; of a byte vocabulary, or of an earlier version, without those
        of `LostText`.
      allowed: whether text may be lost.

    Raises:
      UserError: more than 0.1 % is lost, which is not allowed.
    """
    lost = share_lost(counts) or 0.0
    unknown = counts.get("unknown", 0) / max(counts["tokens"], 1)
    if allowed or max(lost, unknown) <= NEGLIGIBLE_LOSS:
        return
    raise UserError(
        f"the vocabulary does not keep the text of {task}: {lost:.2%} of its bytes do not come "
        f"back from the tokens, and {unknown:.2%} of the tokens are unknown: use 'bytes', or "
        "train a vocabulary on this text (python -m block_recurrent.train_tokenizer), or accept "
        "the loss with prepare.allow_lossy_vocabulary = True; finished shards are kept"
    )


def _missing_bytes(text: bytes, decoded: bytes) -> int:
    """How many bytes of `text` are not in `decoded`, in any order."""
    if text == decoded:
        return 0
    wanted, found = (
        np.bincount(np.frombuffer(each, np.uint8), minlength=256) for each in (text, decoded)
    )
    return int(np.maximum(wanted - found, 0).sum())
