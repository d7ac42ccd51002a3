"""A line of JSON that is too long for memory, such as an object with a text of gigabytes."""

import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from io import IOBase
from typing import Any

import orjson

from block_recurrent.data.formats.plain_text import CHUNK_BYTES, read_chunks
from block_recurrent.data.formats.rows import BadRow, select

LONG_STRING = 2**20  # bytes; strings longer than this are kept on disk
LONG_OUTLINE = 2**28  # bytes of the line without these strings, at most

IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
# What can be decoded by itself; a high surrogate needs the low one after it.
UNITS = re.compile(
    rb'(?:[^"\\]++|\\[^u]|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u(?![dD][89abAB])....)*+', re.DOTALL
)
LONGEST_UNIT = 12
NOT_DECODED = "it is no JSON object (a string has an invalid escape, or half of a surrogate pair)"


class LongLine:
    """A line that is still being read.

    Args:
      start: the parts of it that have been read.
      stream: where it goes on.
    """

    def __init__(self, start: Sequence[bytes], stream: IOBase):
        self._chunks = self._read(start, stream)
        self._rest = b""

    def rest(self) -> bytes:
        """What has been read of the next line. Skips what has not been read of this one."""
        for _ in self._chunks:
            pass
        return self._rest

    def values(self, wanted: Sequence[str]) -> Sequence[Any] | BadRow:
        """The values of the wanted fields; a long string is an iterator of its bytes in pieces."""
        outline = _Outline()
        try:
            for chunk in self._chunks:
                outline.add(chunk)
            row = orjson.loads(bytes(outline.text))
        except orjson.JSONDecodeError as error:
            return BadRow(f"it is no JSON object ({error})")
        except BadRow as error:
            return error
        if not isinstance(row, dict):
            return BadRow("it is no JSON object")
        values = select(row, wanted)
        return values if isinstance(values, BadRow) else list(map(outline.resolve, values))

    def _read(self, start: Sequence[bytes], stream: IOBase) -> Iterator[bytes]:
        yield from start
        while chunk := stream.read(CHUNK_BYTES):
            line, newline, self._rest = chunk.partition(b"\n")
            yield line
            if newline:
                return


class _Outline:
    """A line of JSON whose long strings are on disk, and in whose place are marks.

    Attributes:
      text: the line.
    """

    def __init__(self):
        self.text = bytearray()
        self._mark = uuid.uuid4().hex
        self._strings: dict[str, IOBase] = {}  # by their marks
        self._string: _String | None = None  # that is being read
        self._held = b""  # a backslash at the end of a chunk

    def add(self, chunk: bytes):
        """Adds a part of the line."""
        chunk, self._held, start = self._held + chunk, b"", 0
        while start < len(chunk):
            if self._string is None:
                stop = chunk.find(b'"', start) + 1 or len(chunk)
                self.text += chunk[start:stop]
                if chunk[stop - 1 : stop] == b'"':
                    self._string = _String()
            else:
                stop = IN_STRING.match(chunk, start).end()
                self._string.add(chunk[start:stop])
                if chunk[stop : stop + 1] == b'"':
                    self._end_string()
                    stop += 1
                elif stop < len(chunk):
                    self._held, stop = chunk[stop:], len(chunk)
            start = stop
        if len(self.text) > LONG_OUTLINE:
            raise BadRow(f"it has more than {LONG_OUTLINE // 2**20} MiB beside its long strings")

    def resolve(self, value: Any) -> Any:
        """A value of the line, with an iterator in place of a mark."""
        file = self._strings.get(value) if isinstance(value, str) else None
        return value if file is None else read_chunks(file)

    def _end_string(self):
        string, self._string = self._string, None
        if string.file is None:
            self.text += string.raw + b'"'
            return
        mark = f"{self._mark} {len(self._strings)}"
        self._strings[mark] = string.finish()
        self.text += mark.encode() + b'"'


class _String:
    """A string of JSON. If it is long, its text is decoded into a file.

    Attributes:
      raw: what has not been decoded.
      file: with the text; None for a short string.
    """

    def __init__(self):
        self.raw = bytearray()
        self.file: IOBase | None = None

    def add(self, raw: bytes):
        self.raw += raw
        if len(self.raw) > LONG_STRING:
            self.file = self.file or tempfile.TemporaryFile()  # noqa: SIM115
            self._decode(len(self.raw) - LONGEST_UNIT)

    def finish(self) -> IOBase:
        """The file, from its start."""
        self._decode(len(self.raw))
        if self.raw:
            raise BadRow(NOT_DECODED)
        self.file.seek(0)
        return self.file

    def _decode(self, stop: int):
        """Decodes up to `stop`, or to the last place before it where the text can be cut."""
        place = UNITS.match(self.raw, 0, stop).end()
        if place <= stop - LONGEST_UNIT:
            raise BadRow(NOT_DECODED)
        while 0 < place < len(self.raw) and self.raw[place] & 0xC0 == 0x80:  # inside a character
            place -= 1
        self.file.write(orjson.loads(b'"%b"' % self.raw[:place]).encode())
        del self.raw[:place]
