"""Counting words and characters, for figures by the word and by the character."""

import numpy as np


class TextCounter:
    """Counts the words and characters of a text that comes in pieces.

    Words are runs of bytes that are no white space: ``len(text.split())`` of Python's bytes, what
    `wc -w` counts. Characters are those of UTF-8, each counted by its first byte; so a text need
    not be decoded, nor be valid UTF-8.

    Attributes:
      words: begun so far.
      characters: begun so far.
    """

    def __init__(self):
        self.words = self.characters = 0
        self._after_space = True

    def add(self, text: bytes):
        """The next piece; a word or character may run on from the piece before."""
        if not text:
            return
        codes = np.frombuffer(text, np.uint8)
        space = (codes == ord(" ")) | (codes - ord("\t") < 5)  # one of \t \n \v \f \r
        begins = np.count_nonzero(space[:-1] > space[1:])
        self.words += int(begins) + bool(self._after_space and not space[0])
        self.characters += int(np.count_nonzero(codes & 0xC0 != 0x80))  # 10…: goes on with one
        self._after_space = bool(space[-1])
