"""The bytes that documents are read from, and hashes of them."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from block_recurrent.errors import UserError

MOST_HASHED = 2**28  # bytes of all extents together, but at least
LEAST_HASHED = 2**12  # bytes of each extent
PIECE = 2**16  # bytes of a sample that are read at once
GROUP = 64  # extents that a thread reads at a time
THREADS = 8
IN_MEMORY = 0  # in place of a modification time


class Extent(NamedTuple):
    """Bytes `start` … `start + size` − 1 of a file, or of bytes in memory.

    Attributes:
      name: of the document or the file, for the user.
      source: path of the file, or the bytes.
      start: the first byte.
      size: number of bytes.
    """

    name: str
    source: bytes | Path
    start: int
    size: int


@runtime_checkable
class Stored(Protocol):
    """Documents that are read from files or from memory, not generated."""

    def extents(self) -> list[Extent]:
        """All bytes that documents are read from, in a fixed order."""


def modification_times(extents: Sequence[Extent]) -> Int64[np.ndarray, " extents"]:
    """When the file of each extent was last modified, in ns since 1970; `IN_MEMORY` without a file.

    Raises:
      UserError: a file is missing.
    """
    times = np.full(len(extents), IN_MEMORY, np.int64)
    for index, extent in enumerate(extents):
        if isinstance(extent.source, Path):
            try:
                times[index] = os.stat(extent.source).st_mtime_ns
            except OSError as error:
                raise _unreadable(extent, error) from error
    return times


def hashes(extents: Sequence[Extent], most: int) -> Int64[np.ndarray, " extents"]:
    """A 63-bit hash of the content of each extent, or of a sample of it.

    Args:
      extents: what to read.
      most: bytes of an extent above which only a sample is read: pieces that are evenly spaced from
        its first to its last byte, and have this many bytes together; see `bytes_hashed`.

    Raises:
      UserError: a file cannot be read.
    """
    groups = [extents[first : first + GROUP] for first in range(0, len(extents), GROUP)]
    with ThreadPoolExecutor(THREADS) as pool:  # most of the time is spent waiting for the disk
        found = list(pool.map(lambda group: [_hash(extent, most) for extent in group], groups))
    return np.array([number for group in found for number in group], np.int64)


def bytes_hashed(extents: Sequence[Extent]) -> int:
    """How many bytes of each extent to hash: all, unless they are very many together."""
    total = sum(extent.size for extent in extents)
    return total if total <= MOST_HASHED else max(LEAST_HASHED, MOST_HASHED // len(extents))


def _hash(extent: Extent, most: int) -> int:
    digest = hashlib.sha256()
    try:
        in_memory = isinstance(extent.source, bytes)
        with BytesIO(extent.source) if in_memory else open(extent.source, "rb") as file:
            for start, count in _pieces(extent.size, most):
                file.seek(extent.start + start)
                digest.update(file.read(count))
    except OSError as error:
        raise _unreadable(extent, error) from error
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def _pieces(size: int, most: int) -> Iterator[tuple[int, int]]:
    """The start and the number of the bytes to read at once."""
    if size <= most:
        for start in range(0, size, PIECE):
            yield start, min(PIECE, size - start)
        return
    count = min(PIECE, most // 2)
    for start in np.linspace(0, size - count, most // count, dtype=np.int64).tolist():
        yield start, count


def _unreadable(extent: Extent, error: OSError) -> UserError:
    return UserError(
        f"cannot read {extent.source} ({error.strerror}): restore it, or start a new run with the "
        "current files"
    )
