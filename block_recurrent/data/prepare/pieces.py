"""Cutting a document of any length to pieces, so that no more than a piece of it is in memory."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from block_recurrent.data.documents import PIECE
from block_recurrent.errors import UserError

Cut = Literal["anywhere", "at_spaces", "nowhere"]


def read_pieces(
    files: Sequence[Path], sizes: Sequence[int], cut: Cut, limit: int = PIECE
) -> Iterator[tuple[bytes, bool]]:
    """The files one after another in pieces, each with whether the next one continues it.

    Args:
      files: of one document.
      sizes: bytes of each.
      cut: 'anywhere' is for vocabularies of bytes; 'at_spaces' for those that take every word by
        itself, which gives the pieces the tokens of the whole; 'nowhere' for all others.
      limit: bytes of a piece, at most, if it is cut.

    Raises:
      UserError: a file cannot be read, or has another size.
    """
    place_in = _after_a_space if cut == "at_spaces" else _at_the_limit
    text = bytearray()
    for chunk in _chunks(files, sizes):
        text += chunk
        while len(text) > (sys.maxsize if cut == "nowhere" else limit):
            place = place_in(text, limit)
            yield bytes(text[:place]), True
            del text[:place]
    yield bytes(text), False


def _at_the_limit(text: bytearray, limit: int) -> int:
    return limit


def _after_a_space(text: bytearray, limit: int) -> int:
    """After the last space, else after the last line, else between two characters of UTF-8."""
    for space in (b" ", b"\n"):
        if place := text.rfind(space, 0, limit) + 1:
            return place
    place = limit
    while place > limit - 3 and _continues_a_character(text[place]):
        place -= 1
    return limit if _continues_a_character(text[place]) else place


def _continues_a_character(byte: int) -> bool:
    return byte & 0xC0 == 0x80


def _chunks(files: Sequence[Path], sizes: Sequence[int]) -> Iterator[bytes]:
    for path, size in zip(files, sizes, strict=True):
        read = 0
        try:
            with open(path, "rb") as file:
                while chunk := file.read(PIECE):
                    read += len(chunk)
                    yield chunk
        except OSError as error:
            raise UserError(
                f"cannot read {path} ({error.strerror}): restore it, or begin again without it"
            ) from error
        if read != size:
            raise UserError(
                f"{path} has {read:,} bytes, and had {size:,} at the start: restore it, or begin "
                "again with the files as they are now"
            )
