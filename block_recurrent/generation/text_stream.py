"""Text from tokens as they come: never half a character."""

from collections.abc import Sequence

import numpy as np

from block_recurrent.data.vocabularies import Vocabulary

LONGEST = 4  # bytes of a character in UTF-8


class TextStream:
    """Turns tokens into text that can be shown at once.

    A token may be part of a character, and where a piece begins with a space depends on the piece
    before it. So tokens are decoded together with the ones before them, and held back while they
    end within a character.

    Args:
      vocabulary: of the tokens.
      before: tokens that stand before the first one, if there are any.
    """

    def __init__(self, vocabulary: Vocabulary, before: Sequence[int] | np.ndarray = ()):
        self.vocabulary = vocabulary
        self.shown, self.held = [int(token) for token in before][-LONGEST:], []

    def add(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text that is certain now."""
        text = []
        for token in tokens:
            self.held.append(int(token))
            new = self._new()
            if not new.endswith("\ufffd") or len(self.held) == LONGEST:
                text.append(new)
                self.shown, self.held = (self.shown + self.held)[-LONGEST:], []
        return "".join(text)

    def end(self) -> str:
        """What was held back."""
        return self._new()

    def _new(self) -> str:
        """The text of the tokens held, after those shown."""
        before = self.vocabulary.decode(self.shown)
        both = self.vocabulary.decode(self.shown + self.held)
        return both[len(before) :].decode("utf-8", "replace")
