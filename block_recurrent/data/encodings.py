"""Converts text of any encoding to UTF-8, in which all text is trained on."""

import codecs
import functools
import io
from collections.abc import Iterable, Iterator
from io import IOBase
from pathlib import Path

from block_recurrent.data.content import recognise
from block_recurrent.data.documents import CHUNK_BYTES
from block_recurrent.errors import UserError

DETECT = "detect"
SAMPLE_BYTES = 2**16  # from which an encoding is guessed


def read_utf8(path: Path, encoding: str | None) -> Iterator[bytes]:
    """The text of a file as UTF-8, in chunks; None: its bytes as they are. See `to_utf8`.

    Raises:
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        chunks = iter(functools.partial(file.read, CHUNK_BYTES), b"")
        yield from chunks if encoding is None else to_utf8(chunks, encoding, str(path))


def guess_encoding(sample: bytes) -> str | None:
    """The encoding that a text most likely has; None if none fits.

    UTF-8, UTF-16 and UTF-32 are recognised with certainty. Others are guessed by
    charset-normalizer, which is often wrong if there are only a few words.

    Args:
      sample: the first bytes of the text. A character may be cut off at the end.
    """
    content = recognise(sample)
    if content.kind == "binary":
        return None
    if content.kind != "invalid":
        return "utf-8-sig" if content.kind == "utf-8" else content.name
    from charset_normalizer import from_bytes  # takes a tenth of a second

    found = from_bytes(sample).best()
    return found.encoding if found else None


def to_utf8(chunks: Iterable[bytes], encoding: str, name: str) -> Iterator[bytes]:
    """Converts the chunks of a text to UTF-8. Only one chunk is in memory at a time.

    Args:
      chunks: the text; a character may be cut between two of them.
      encoding: of the text; 'detect': guessed from the first chunk, see `guess_encoding`.
      name: of the file, for messages.

    Raises:
      UserError: the text is not in this encoding, or no encoding fits.
    """
    decoder, position = None, 0
    chunks = iter(chunks)
    chunk = next(chunks, b"")
    while chunk or decoder is None:
        if decoder is None:
            found = guess_encoding(chunk[:SAMPLE_BYTES]) if encoding == DETECT else encoding
            if found is None:
                raise UserError(
                    f"{name} is in no encoding that charset-normalizer detects: set data.encoding "
                    "to its encoding, or exclude it with data.glob"
                )
            decoder = codecs.getincrementaldecoder(found)()
        following = next(chunks, b"")
        try:
            text = decoder.decode(chunk, final=not following)
        except UnicodeError as error:
            place = position + getattr(error, "start", 0)
            raise UserError(
                f"{name} is not in the encoding {found} (near byte {place:,}): set data.encoding "
                "to its encoding or to 'detect', or exclude it with data.glob"
            ) from error
        if text:
            yield text.encode("utf-8", "surrogatepass")
        position, chunk = position + len(chunk), following


def utf8_stream(stream: IOBase, encoding: str, name: str) -> IOBase:
    """A stream with the text of another one, converted to UTF-8; see `to_utf8`."""
    chunks = iter(functools.partial(stream.read, CHUNK_BYTES), b"")
    return io.BufferedReader(_Chunks(to_utf8(chunks, encoding, name)), CHUNK_BYTES)


class _Chunks(io.RawIOBase):
    """A stream of chunks that are not empty."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks, self._ready = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        self._ready = self._ready or next(self._chunks, b"")
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
