"""Decode a stream of tokens to text, without ever splitting a character."""

from collections.abc import Sequence

import numpy as np

from block_recurrent.data.vocabularies import Vocabulary

MAX_CHARACTER_BYTES = 4  # in UTF-8


class TextStream:
    """Turns tokens into text that can be shown immediately.

    A token may be only part of a character, and whether a SentencePiece token begins with a space
    depends on the previous token. So new tokens are decoded together with the preceding ones, and
    held back while they end inside a character.

    Args:
      vocabulary: decodes the tokens.
      before: the tokens that precede the first one, if any.
    """

    def __init__(self, vocabulary: Vocabulary, before: Sequence[int] | np.ndarray = ()):
        self.vocabulary = vocabulary
        self.context = [int(token) for token in before][-MAX_CHARACTER_BYTES:]
        self.pending = []

    def add(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Add tokens, and return the text that is complete now."""
        text = []
        for token in tokens:
            self.pending.append(int(token))
            new = self._decode_pending()
            if not new.endswith("\ufffd") or len(self.pending) == MAX_CHARACTER_BYTES:
                text.append(new)
                self.context = (self.context + self.pending)[-MAX_CHARACTER_BYTES:]
                self.pending = []
        return "".join(text)

    def end(self) -> str:
        """Return the text that was held back."""
        return self._decode_pending()

    def _decode_pending(self) -> str:
        before = self.vocabulary.decode(self.context)
        both = self.vocabulary.decode(self.context + self.pending)
        return both[len(before) :].decode("utf-8", "replace")
