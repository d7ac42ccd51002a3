"""Corpora of text files, one document per file: any folder, or Python's standard library."""

import os
import sysconfig
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from block_recurrent.data.documents import ByteDocuments, split_held_out
from block_recurrent.errors import UserError

INSTALLED = ("site-packages", "dist-packages", "__pycache__")
MACHINE_SPECIFIC = ("_sysconfigdata", "sitecustomize.", "usercustomize.")  # starts of names


def load_text_files(
    path: str | Path, glob: str = "**/*", held_out_per_mille: int = 20
) -> dict[str, ByteDocuments]:
    """The matching files of a folder, as "train" and "held_out"; see `split_held_out`.

    A document's name is its path in the folder, with '/' on every system. Documents are sorted by
    name. Empty files are left out.

    Args:
      path: the folder; '~' is the home folder.
      glob: which files; see `matching_files`.
      held_out_per_mille: documents per thousand to hold out.

    Raises:
      UserError: the folder does not exist, a file cannot be read, or there are fewer than two
        documents.
    """
    folder = Path(path).expanduser()
    documents = _without_empty(folder, matching_files(folder, glob))
    check_number_of_documents(documents.names, folder, glob)
    return split_held_out(documents, held_out_per_mille)


def load_standard_library(held_out_per_mille: int = 20) -> dict[str, ByteDocuments]:
    """The .py files of the running Python's standard library, as "train" and "held_out".

    This is the default corpus, because every machine has it. A document's name is its path in the
    library, so all versions of Python hold out the same files. Some systems omit parts (Debian
    omits `test`), so results are comparable only between equal installations. Installed packages
    and files that contain paths of this machine are left out.

    Raises:
      UserError: this Python has no source files.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    found = files_under(folder, enter=_is_library) if folder.is_dir() else ()  # it may be a zip
    documents = _without_empty(folder, [name for name in found if _is_source(name)])
    if len(documents.names) < 2:
        raise UserError(
            f"no source files of Python's standard library in {folder}: set data.corpus = "
            "'text_files' and data.path to a folder of text"
        )
    return split_held_out(documents, held_out_per_mille)


def matching_files(folder: Path, glob: str) -> list[str]:
    """The relative paths of the regular files in `folder` that match, sorted, with '/' separators.

    Args:
      folder: where to look. Links to files are followed. Links to folders are not, to avoid loops.
        Broken links and special files are left out.
      glob: pattern of relative paths, with '/' separators. '**' stands for any number of folders.
        A file or folder whose name starts with a dot only matches a part that starts with a dot.

    Raises:
      UserError: the folder does not exist, no file matches, or a file cannot be read.
    """
    _check_folder(folder)
    dotted = any(part.startswith(".") for part in _parts(glob))
    names = [
        name
        for name in files_under(folder, enter=lambda name: dotted or not name.startswith("."))
        if matches_glob(name, glob)
    ]
    if not names:
        raise UserError(
            f"no file in {folder} matches data.glob = '{glob}': "
            "change the pattern ('**/*' matches every file) or data.path"
        )
    for name in names:
        if not os.access(folder / name, os.R_OK):
            raise UserError(
                f"no permission to read {folder / name}: make it readable (chmod +r), or exclude "
                "it with data.glob"
            )
    return names


def files_under(folder: Path, enter: Callable[[str], bool]) -> list[str]:
    """The relative paths of all regular files in `folder`, sorted, with '/' separators.

    Args:
      folder: where to look.
      enter: returns whether to look into subfolders with a given name.
    """

    def refuse(error: OSError):
        raise UserError(
            f"cannot list the folder {error.filename} ({error.strerror}): make it readable "
            "(chmod +rx), or move it elsewhere"
        ) from error

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if enter(name)]
        inside = Path(place).relative_to(folder)
        regular = [name for name in files if os.path.isfile(os.path.join(place, name))]
        found += [(inside / name).as_posix() for name in regular]
    return sorted(found)


def matches_glob(name: str, glob: str) -> bool:
    """Whether a relative path, with '/' separators, matches; see `matching_files`."""
    return _matches(name.split("/"), _parts(glob))


def check_number_of_documents(names: Sequence[str], folder: str | Path, glob: str):
    """Raises UserError for fewer than two documents; `names` are those of non-empty documents."""
    if not names:
        raise UserError(
            f"every file in {folder} that matches data.glob = '{glob}' is empty: "
            "set data.path or data.glob to other files"
        )
    if len(names) == 1:
        raise UserError(
            f"{names[0]} is the only document in {folder} for data.glob = '{glob}', but "
            "training and evaluation need one each: split it into two files or more"
        )


def _without_empty(folder: Path, names: Sequence[str]) -> ByteDocuments:
    documents = ByteDocuments({name: folder / name for name in names})
    return documents.select(np.flatnonzero(documents.lengths > 1))


def _parts(glob: str) -> list[str]:
    """The parts of a glob that stand for folders and files."""
    return [part for part in glob.split("/") if part not in ("", ".")]


def _matches(parts: list[str], patterns: list[str]) -> bool:
    """Whether the parts of a path match the parts of a glob; see `matching_files`."""
    if not patterns:
        return not parts
    if patterns[0] == "**" and _matches(parts, patterns[1:]):
        return True
    if not parts or (parts[0].startswith(".") and not patterns[0].startswith(".")):
        return False
    if patterns[0] == "**":
        return _matches(parts[1:], patterns)
    return fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])


def _check_folder(folder: Path):
    if not folder.exists():
        raise UserError(f"data.path = '{folder}' does not exist: set it to a folder of text files")
    if not folder.is_dir():
        raise UserError(
            f"data.path = '{folder}' is a file: set data.path to its folder, and data.glob to the "
            "name of the file"
        )


def _is_library(folder: str) -> bool:
    return folder not in INSTALLED and not folder.startswith("config-")


def _is_source(name: str) -> bool:
    return name.endswith(".py") and not name.rsplit("/", 1)[-1].startswith(MACHINE_SPECIFIC)
