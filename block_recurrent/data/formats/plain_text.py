"""Text files: one document, or several between separators."""

import re
from collections.abc import Iterator
from io import IOBase

from block_recurrent.errors import UserError

CHUNK_BYTES = 2**20
OVERLAP = 2**16  # bytes; a separator that begins earlier than this before the end is found whole
CONTEXT = 2**8  # bytes before a separator that its expression can look at


def parse_separator(separator: str) -> re.Pattern[bytes]:
    """The pattern of `data.separator`: text as it is, or a regular expression after 're:'.

    Raises:
      UserError: it is no regular expression, or matches nothing at all.
    """
    prefix, _, expression = separator.partition("re:")
    is_expression = not prefix and separator.startswith("re:")
    text = expression if is_expression else re.escape(separator)
    try:
        pattern = re.compile(text.encode())
    except re.error as error:
        raise UserError(
            f"data.separator = {separator!r} is no regular expression ({error}): correct it, or "
            "remove 're:' if it is the text itself"
        ) from error
    if pattern.search(b""):
        raise UserError(
            f"data.separator = {separator!r} matches where nothing is: set it to what stands "
            "between two documents, such as '<|endoftext|>' or 're:\\n\\n+'"
        )
    return pattern


def read_chunks(stream: IOBase) -> Iterator[bytes]:
    """The content of a stream in pieces."""
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def cut(chunks: Iterator[bytes], separator: re.Pattern[bytes]) -> Iterator[Iterator[bytes]]:
    """The texts between separators, each as an iterator of pieces.

    A text must be read before the next one; what is left of it is skipped. Only a chunk is in
    memory, for texts of any length.
    """
    cutter = _Cutter(chunks, separator)
    while not cutter.is_finished:
        pieces = cutter.pieces()
        yield pieces
        for _ in pieces:
            pass


class _Cutter:
    def __init__(self, chunks: Iterator[bytes], separator: re.Pattern[bytes]):
        self._chunks, self._separator = chunks, separator
        self._buffer, self._start = b"", 0  # what is before the start has been given out
        self._at_end = False
        self.is_finished = False

    def pieces(self) -> Iterator[bytes]:
        """The pieces up to the next separator."""
        while True:
            found = self._separator.search(self._buffer, self._start)
            if found and (found.end() < len(self._buffer) or self._at_end):
                yield self._take(found.start())
                self._start = found.end()
                return
            if self._at_end:
                yield self._take(len(self._buffer))
                self.is_finished = True
                return
            certain = found.start() if found else len(self._buffer) - OVERLAP
            if certain > self._start:
                yield self._take(certain)
            self._fill()

    def _take(self, stop: int) -> bytes:
        piece, self._start = self._buffer[self._start : stop], stop
        return piece

    def _fill(self):
        chunk = next(self._chunks, b"")
        self._at_end = not chunk
        before = max(self._start - CONTEXT, 0)
        self._buffer, self._start = self._buffer[before:] + chunk, self._start - before
