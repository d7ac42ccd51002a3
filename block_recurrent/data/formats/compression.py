"""Opens compressed files as streams of the bytes inside."""

import bz2
import contextlib
import gzip
import io
import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from io import IOBase

import zstandard

from block_recurrent.data.formats.suffixes import split_compression
from block_recurrent.errors import DISK_FULL, UserError, first_line

CHUNK_BYTES = 2**18
SMALL_READ, LARGE_READ = 2**9, 2**14  # of zstd, whose frames can grow 30,000-fold
WINDOW = 2**31  # the longest that zstd writes (--long=31)

DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
DAMAGED += (tarfile.TarError, zipfile.BadZipFile)


def decompress(file: IOBase, name: str) -> IOBase:
    """The bytes inside a file that is compressed as its name says. Not compressed: the file itself.

    Reading raises one of DAMAGED if the file is damaged or truncated; see `explain_damage`.
    """
    suffix = split_compression(name)[1]
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=file)
    if suffix == ".bz2":
        return bz2.BZ2File(file)
    if suffix == ".xz":
        return lzma.LZMAFile(file)
    return io.BufferedReader(_ZstdFile(file), CHUNK_BYTES) if suffix == ".zst" else file


@contextlib.contextmanager
def explain_damage(name: str) -> Iterator[None]:
    """Turns the errors of damaged and truncated files into a `UserError` that names the file."""
    try:
        yield
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise UserError(
            f"{name} is damaged or truncated ({first_line(error)}): copy or download it again, or "
            "exclude it with data.glob"
        ) from error


def seekable(stream: IOBase) -> IOBase:
    """The stream, if it is a file that lies as it is; else a temporary file with its content."""
    if isinstance(getattr(stream, "raw", None), io.FileIO) or hasattr(stream, "fs"):  # fsspec's
        return stream
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    shutil.copyfileobj(stream, copy, CHUNK_BYTES)
    copy.seek(0)
    return copy


class _ZstdFile(io.RawIOBase):
    """The bytes inside a file of zstd frames. Unlike zstandard's stream_reader, it notices the end
    of a truncated file."""

    def __init__(self, file: IOBase):
        self._file = file
        self._frame = None  # the one that is being read
        self._rest = b""  # read from the file, but not yet given to a frame
        self._ready = memoryview(b"")
        self._size = SMALL_READ

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._ready:
            data = self._rest or self._file.read(self._size)
            if not data:
                if self._frame is not None:
                    raise EOFError("the last zstd frame is not complete")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj()
            self._ready, self._rest = memoryview(self._frame.decompress(data)), b""
            much = len(self._ready) > CHUNK_BYTES
            self._size = SMALL_READ if much else min(2 * self._size, LARGE_READ)
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
