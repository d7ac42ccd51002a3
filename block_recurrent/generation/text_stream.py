"""Decode a stream of tokens to text, without ever splitting a character."""

import codecs
from collections.abc import Sequence

import numpy as np

from block_recurrent.data.vocabularies import Vocabulary

CONTEXT_TOKENS = 8
CHARACTER_BYTES = 4  # of the longest character in UTF-8


class TextStream:
    """Turns tokens into text that can be shown immediately.

    Joined, the texts of all calls are what the vocabulary makes of all tokens at once, with
    U+FFFD for bytes that are not UTF-8. A token may be only part of a character; its bytes are held
    back until the character is complete, or can no longer become one. And whether a SentencePiece
    token begins with a space depends on the previous ones, so new tokens are decoded together with
    the last few.

    Args:
      vocabulary: decodes the tokens.
      before: the tokens that precede the first one, if any. If they end inside a character, the
        text begins with that character.

    Attributes:
      context: the last tokens, on which the text of the next ones depends: as `before`, they
        continue the stream.
    """

    def __init__(self, vocabulary: Vocabulary, before: Sequence[int] | np.ndarray = ()):
        self.vocabulary, self.context = vocabulary, []
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self.add(before)

    def add(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Add tokens, and return the text that is complete now."""
        both = self.context + [int(token) for token in tokens]
        new = self.vocabulary.decode(both)[len(self.vocabulary.decode(self.context)) :]
        last = both[-CONTEXT_TOKENS:]
        # Tokens without text, such as special ones, do not crowd out those with text.
        self.context = last if len(self.vocabulary.decode(last)) >= CHARACTER_BYTES else both
        return self._utf8.decode(new)

    def end(self) -> str:
        """Return U+FFFD if the stream ends inside a character, else nothing."""
        return self._utf8.decode(b"", final=True)
