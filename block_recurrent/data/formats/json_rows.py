"""JSON: an object per line, or a file that is one array of objects or one object."""

import codecs
import json
from collections.abc import Iterator, Sequence
from io import IOBase
from typing import Any

import orjson

from block_recurrent.data.formats.long_lines import LongLine
from block_recurrent.data.formats.plain_text import CHUNK_BYTES
from block_recurrent.data.formats.rows import BadRow, Row, Share, select
from block_recurrent.errors import UserError

LONG_BYTES = 2**25  # lines longer than this are not held in memory
WHOLE_BYTES = 2**28  # the most for a file that is a single value


def json_rows(stream: IOBase, name: str, wanted: Sequence[str], share: Share) -> Iterator[Row]:
    """The rows of a JSON file.

    Args:
      stream: the file.
      name: of the file, for messages.
      wanted: names of the fields.
      share: which lines to read.

    Raises:
      UserError: a file that is a single value is too large.
    """
    lines = _lines(stream)
    first = next(lines, b"")
    if isinstance(first, bytes):
        first = first.removeprefix(codecs.BOM_UTF8)
        if first.strip() == b"{" or first.lstrip().startswith(b"["):
            yield from _one_value(first, lines, name, wanted, share)
            return
    number = 0
    line = first
    while line is not None:
        if number in share and (isinstance(line, LongLine) or line.strip()):
            yield Row(number + 1, _parse(line, wanted))
        number += 1
        line = next(lines, None)


def _lines(stream: IOBase) -> Iterator[bytes | LongLine]:
    """The lines of a stream, without their ends. A long one must be read before the next."""
    parts, size, chunk = [], 0, stream.read(CHUNK_BYTES)  # parts of a line that goes on
    while chunk:
        first, *others = chunk.split(b"\n")
        parts.append(first)
        size += len(first)
        if others:
            yield b"".join(parts)
            yield from others[:-1]
            parts, size = [others[-1]], len(others[-1])
        chunk = b""
        if size > LONG_BYTES:
            line = LongLine(parts, stream)
            yield line
            chunk, parts, size = line.rest(), [], 0
        chunk = chunk or stream.read(CHUNK_BYTES)
    if last := b"".join(parts):
        yield last


def _parse(line: bytes | LongLine, wanted: Sequence[str]) -> Sequence[Any] | BadRow:
    if isinstance(line, LongLine):
        return line.values(wanted)
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        row = _parse_leniently(line, error)
    if isinstance(row, BadRow):
        return row
    return select(row, wanted) if isinstance(row, dict) else BadRow("it is no JSON object")


def _parse_leniently(line: bytes, error: ValueError) -> Any:
    """Accepts NaN, and half surrogates in fields that are not wanted."""
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError:
        return BadRow("it is no JSON object (not UTF-8: data.encoding names other encodings)")
    except ValueError:
        return BadRow(f"it is no JSON object ({error})")


def _one_value(
    first: bytes, lines: Iterator, name: str, wanted: Sequence[str], share: Share
) -> Iterator[Row]:
    parts, size = [first], len(first)
    for line in lines:
        size += len(line) + 1 if isinstance(line, bytes) else WHOLE_BYTES + 1
        if size > WHOLE_BYTES:
            raise UserError(
                f"{name} is a single JSON value of more than {WHOLE_BYTES // 2**20} MiB: write "
                "one object per line"
            )
        parts.append(line)
    try:
        value = json.loads(b"\n".join(parts).decode())
    except ValueError as error:
        yield Row(1, BadRow(f"it is neither JSON lines nor a JSON value ({error})"))
        return
    for number, row in enumerate(value if isinstance(value, list) else [value]):
        if number in share:
            is_object = isinstance(row, dict)
            yield Row(number + 1, select(row, wanted) if is_object else BadRow("it is no object"))
