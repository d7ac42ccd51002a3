"""The files inside .tar and .zip archives, one after the other."""

import io
import posixpath
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from io import IOBase

from block_recurrent.data.formats.compression import CHUNK_BYTES, seekable
from block_recurrent.data.formats.rows import Share
from block_recurrent.errors import UserError


def members(
    stream: IOBase, name: str, kind: str, wanted: Callable[[str], bool], share: Share
) -> Iterator[tuple[str, int, IOBase]]:
    """The regular files in an archive, each as (path in it, size, stream), in its order.

    A stream must be read before the next one, or not at all.

    Args:
      stream: the archive.
      name: of the archive, for messages.
      kind: 'tar' or 'zip'.
      wanted: whether a path in the archive is wanted.
      share: which of the files.

    Raises:
      UserError: a file is encrypted.
    """
    found = _in_tar(stream) if kind == "tar" else _in_zip(stream, name)
    number = -1
    for path, size, open_member in found:
        if not wanted(path):
            continue
        number += 1
        if number in share:
            with open_member() as member:
                yield path, size, member


def _in_tar(stream: IOBase):
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if member.isfile():
                yield (
                    posixpath.normpath(member.name),
                    member.size,
                    lambda member=member: io.BufferedReader(
                        _Forward(archive.extractfile(member)), CHUNK_BYTES
                    ),
                )


def _in_zip(stream: IOBase, name: str):
    with zipfile.ZipFile(seekable(stream)) as archive:
        for member in archive.infolist():
            if member.flag_bits & 1:
                raise UserError(
                    f"{name}: {member.filename} is encrypted: unpack it, and set data.path to the "
                    "folder"
                )
            if not member.is_dir():
                path = posixpath.normpath(member.filename)
                yield path, member.file_size, lambda member=member: archive.open(member)


class _Forward(io.RawIOBase):
    """A stream that can only be read forward. (Members of a tar stream fail when they are asked.)

    Args:
      stream: where to read.
    """

    def __init__(self, stream: IOBase):
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
