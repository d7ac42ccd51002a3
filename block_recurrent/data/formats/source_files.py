"""The files of a corpus, on disk or at a URL that fsspec knows, such as gs://bucket/folder."""

import os
from io import IOBase
from pathlib import Path
from typing import NamedTuple

from block_recurrent.data.text_files import matches_glob, matching_files
from block_recurrent.errors import UserError, first_line
from block_recurrent.files.paths import is_url


class SourceFile(NamedTuple):
    """A file that can be read.

    Attributes:
      name: path in the folder of the corpus, with '/'.
      path: on disk, or a URL.
      size: in bytes, as it lies there.
    """

    name: str
    path: str
    size: int

    def open(self) -> IOBase:
        """Opens the file for reading.

        Raises:
          UserError: the file cannot be read, or its size has changed.
        """
        try:
            if is_url(self.path):
                return _file_system(self.path).open(self.path, "rb")
            file = open(self.path, "rb")  # noqa: SIM115
        except Exception as error:  # of any file system
            raise unreadable(self.path, error) from error
        size = os.fstat(file.fileno()).st_size
        if size != self.size:
            file.close()
            raise UserError(
                f"{self.path} has {size:,} bytes, but had {self.size:,} at the start: restore it, "
                "or run the same command again when it no longer changes"
            )
        return file


def find_files(path: str, glob: str) -> list[SourceFile]:
    """The files of a corpus, sorted by name.

    Args:
      path: a file, or a folder; '~' is the home folder.
      glob: which files of the folder; see `matching_files`.

    Raises:
      UserError: there is no such file or folder, no file matches, or a file cannot be read.
    """
    if is_url(path):
        return _find_at_url(path, glob)
    place = Path(path).expanduser()
    if place.is_file():
        return [_on_disk(place.name, place)]
    return [_on_disk(name, place / name) for name in matching_files(place, glob)]


def unreadable(path: str, error: Exception) -> UserError:
    """A `UserError` that says why a file cannot be read, and what to do."""
    reason = getattr(error, "strerror", None) or first_line(error)
    return UserError(
        f"cannot read {path} ({reason}): restore it, or exclude it with data.path or data.glob"
    )


def _on_disk(name: str, path: Path) -> SourceFile:
    try:
        return SourceFile(name, str(path), path.stat().st_size)
    except OSError as error:
        raise unreadable(str(path), error) from error


def _find_at_url(url: str, glob: str) -> list[SourceFile]:
    files = _file_system(url)
    root = files._strip_protocol(url).rstrip("/")
    try:
        found = files.find(root, detail=True)
    except Exception as error:  # of any file system
        raise unreadable(url, error) from error
    if not found:
        raise UserError(f"data.path = '{url}' does not exist: set it to a file or folder of text")
    listed = []
    for path, described in sorted(found.items()):
        name = path[len(root) :].lstrip("/")
        if not name:  # the URL of a file
            name = path.rpartition("/")[2]
        elif not matches_glob(name, glob):
            continue
        listed.append(SourceFile(name, files.unstrip_protocol(path), described["size"]))
    if not listed:
        raise UserError(
            f"no file in {url} matches data.glob = '{glob}': "
            "change the pattern ('**/*' matches every file) or data.path"
        )
    return listed


def _file_system(url: str):
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)[0]
    except (ImportError, ValueError) as error:
        raise UserError(
            f"cannot read {url} ({first_line(error)}): install the package that it names, or copy "
            "the files to a folder"
        ) from error
