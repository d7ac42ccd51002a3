"""Counting words, for perplexity by the word."""

import numpy as np


class WordCounter:
    """Counts the words of a text that comes in pieces: runs of bytes that are no white space.

    That is ``len(text.split())`` of Python's bytes, and what `wc -w` counts.

    Attributes:
      count: words begun so far.
    """

    def __init__(self):
        self.count = 0
        self._after_space = True

    def add(self, text: bytes):
        """The next piece; a word may run on from the piece before."""
        if not text:
            return
        codes = np.frombuffer(text, np.uint8)
        space = (codes == ord(" ")) | (codes - ord("\t") < 5)  # one of \t \n \v \f \r
        begins = np.count_nonzero(space[:-1] > space[1:])
        self.count += int(begins) + bool(self._after_space and not space[0])
        self._after_space = bool(space[-1])
