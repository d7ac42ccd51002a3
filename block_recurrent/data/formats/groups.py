"""Documents that are made of many rows, sorted on disk."""

import contextlib
import errno
import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from block_recurrent.data.formats.plain_text import CHUNK_BYTES
from block_recurrent.data.formats.rows import Document, Share

SPLITS = (None, "train", "held_out", "test")  # what is in a later one is not in an earlier one
TEXTS, TABLE = "rows.bytes", "rows.sqlite"


def write_groups(documents: Iterable[Document], folder: Path):
    """Writes the parts of documents to a folder, from which `read_groups` joins them.

    A part of a document has the document's name, and a place by which the parts are sorted: null
    first, then numbers, then text. Parts with the same place stay in their order. If the parts are
    in several splits, the document is in the last of `SPLITS`. Memory does not grow with the number
    of parts.
    """
    unfinished = folder / f"{TABLE}.tmp"
    unfinished.unlink(missing_ok=True)
    try:
        _write(documents, folder / TEXTS, unfinished)
    except sqlite3.OperationalError as error:  # such as "database or disk is full"
        raise OSError(errno.ENOSPC, str(error)) from error
    unfinished.rename(folder / TABLE)


def _write(documents: Iterable[Document], texts_path: Path, table_path: Path):
    with open(texts_path, "wb") as texts, contextlib.closing(sqlite3.connect(table_path)) as table:
        table.execute(
            "CREATE TABLE rows (name BLOB, place, start INTEGER, size INTEGER, split INTEGER)"
        )
        table.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", _append(documents, texts))
        table.execute("CREATE INDEX sorted ON rows (name, place, start, size, split)")
        table.commit()


def are_written(folder: Path) -> bool:
    """Whether `write_groups` has finished."""
    return (folder / TABLE).exists()


def read_groups(folder: Path, share: Share) -> Iterator[Document]:
    """The documents, or a share of them, sorted by name."""
    table = sqlite3.connect(f"{(folder / TABLE).absolute().as_uri()}?mode=ro", uri=True)
    try:
        rows = table.execute("SELECT name, start, size FROM rows ORDER BY name, place, start")
        grouped = itertools.groupby(rows, key=lambda row: row[0])
        with open(folder / TEXTS, "rb") as texts:
            for number, (name, parts) in enumerate(grouped):
                if number in share:
                    places = ((start, size) for _, start, size in parts)
                    last = table.execute("SELECT max(split) FROM rows WHERE name = ?", [name])
                    split = SPLITS[last.fetchone()[0]]
                    yield Document(_decode(name), _read(texts, places), split)
    finally:
        table.close()


def _append(documents: Iterable[Document], texts) -> Iterator[tuple[bytes, Any, int, int, int]]:
    start = 0
    for name, pieces, split, place in documents:
        size = sum(map(texts.write, pieces))
        if not isinstance(place, float | str | None) and not _is_short_integer(place):
            place = str(place)
        split = SPLITS.index(split)
        yield name.encode("utf-8", "surrogatepass"), place, start, size, split
        start += size


def _is_short_integer(value: Any) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63  # as in the table


def _read(texts, places: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    for start, size in places:
        texts.seek(start)
        while size > 0:
            piece = texts.read(min(size, CHUNK_BYTES))
            size -= len(piece)
            yield piece


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")
