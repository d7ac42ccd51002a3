"""The files of a corpus, on disk or at a URL that fsspec knows, such as gs://bucket/folder."""

import os
from collections.abc import Sequence
from io import IOBase
from pathlib import Path
from typing import NamedTuple

from block_recurrent.data.globs import matches, or_below
from block_recurrent.data.text_files import check_matched, files_named, matching_files
from block_recurrent.errors import UserError, first_line
from block_recurrent.files.paths import is_url
from block_recurrent.files.written_folders import without_written


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


def find_files(path: str, glob: str | Sequence[str]) -> list[SourceFile]:
    """The files of a corpus, sorted by name, without those of runs and token stores.

    Args:
      path: a file, or a folder.
      glob: which files of the folder; see `matching_files`.

    Raises:
      UserError: there is no such file or folder, no file matches, or a file cannot be read.
    """
    if is_url(path):
        found = _list_url(path)
        if [file.path for file in found] == [path]:
            return found
        found = [file for file in found if matches(file.name, glob)]
        check_matched(found, path, glob)
        return found
    place = Path(path)
    if place.is_file():
        return [on_disk(place.name, place)]
    return [on_disk(name, place / name) for name in matching_files(place, glob)]


def find_held_out(path: str, item: str, glob: str | Sequence[str]) -> list[SourceFile]:
    """The files that an item of `data.held_out` names, or none; see `held_out_files`."""
    if is_url(item):
        folder = item.rstrip("/").rpartition("/")[2]
        found = find_files(item, glob)
        at_item = [file.path for file in found] == [item]
        return [
            file._replace(name=f"../{'' if at_item else folder + '/'}{file.name}") for file in found
        ]
    if is_url(path):
        found = [file for file in _list_url(path) if matches(file.name, or_below(item))]
        if found:
            return found
    named = files_named(Path(path), item, glob)
    return [on_disk(name, place) for name, place in named.items()]


def unreadable(path: str, error: Exception) -> UserError:
    """A `UserError` that says why a file cannot be read, and what to do."""
    reason = getattr(error, "strerror", None) or first_line(error)
    return UserError(
        f"cannot read {path} ({reason}): restore it, or exclude it with data.path or data.glob"
    )


def on_disk(name: str, path: Path) -> SourceFile:
    """A file on disk, with its size.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return SourceFile(name, str(path), path.stat().st_size)
    except OSError as error:
        raise unreadable(str(path), error) from error


def _list_url(url: str) -> list[SourceFile]:
    """All files at a URL, sorted by name; a file at it has the last part of the URL as its name."""
    files = _file_system(url)
    root = files._strip_protocol(url).rstrip("/")
    try:
        found = files.find(root, detail=True)
    except Exception as error:  # of any file system
        raise unreadable(url, error) from error
    if not found:
        raise UserError(f"data.path = '{url}' does not exist: set it to a file or folder of text")
    if root in found:
        return [SourceFile(root.rpartition("/")[2], url, found[root]["size"])]
    named = {path[len(root) :].lstrip("/"): path for path in found}
    return [
        SourceFile(name, files.unstrip_protocol(named[name]), found[named[name]]["size"])
        for name in sorted(without_written(named))
    ]


def _file_system(url: str):
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)[0]
    except (ImportError, ValueError) as error:
        raise UserError(
            f"cannot read {url} ({first_line(error)}): install the package that it names, or copy "
            "the files to a folder"
        ) from error
