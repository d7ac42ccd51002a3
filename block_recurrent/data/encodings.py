"""Converts text of any encoding to UTF-8, in which all text is trained on."""

import codecs
from collections.abc import Iterable, Iterator

from block_recurrent.errors import UserError

DETECT = "detect"
SAMPLE_BYTES = 2**16  # from which an encoding is guessed


def check_encoding(encoding: str | None):
    """Raises UserError if `data.encoding` names no encoding of text."""
    if encoding in (None, DETECT):
        return
    try:
        "".encode(encoding)
    except LookupError as error:
        raise UserError(
            f"data.encoding = {encoding!r} is not an encoding that Python knows: name one, such as "
            "'utf-16', 'shift_jis', 'euc_jp' or 'latin_1', or write 'detect'"
        ) from error


def guess_encoding(sample: bytes) -> str | None:
    """The encoding that a text most likely has, by charset-normalizer; None if none fits.

    UTF-8 is only said of valid UTF-8. A guess from a few words is often wrong.

    Args:
      sample: the first bytes of the text. A character may be cut off at the end.
    """
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
        return "utf-8-sig" if sample.startswith(codecs.BOM_UTF8) else "utf-8"
    except UnicodeDecodeError:
        pass
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
