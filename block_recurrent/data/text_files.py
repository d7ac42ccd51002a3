"""A corpus from any folder: one file, one document, its bytes as they are."""

import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from block_recurrent.data.documents import ByteDocuments, split_held_out
from block_recurrent.errors import UserError


def load_text_files(
    path: str | Path, glob: str = "**/*", held_out_per_mille: int = 20
) -> dict[str, ByteDocuments]:
    """The files of a folder that match, as "train" and "held_out"; see `split_held_out`.

    A document's name is its path in the folder, with '/' on every system, and documents are sorted
    by name. Empty files are left out.

    Args:
      path: the folder; '~' is the home folder.
      glob: which files; see `matching_files`.
      held_out_per_mille: documents in a thousand to hold out.

    Raises:
      UserError: no such folder, a file that cannot be read, or fewer than two documents.
    """
    folder = Path(path).expanduser()
    names = matching_files(folder, glob)
    documents = ByteDocuments({name: folder / name for name in names})
    documents = documents.select(np.flatnonzero(documents.lengths > 1))
    check_number(documents.names, folder, glob)
    return split_held_out(documents, held_out_per_mille)


def matching_files(folder: Path, glob: str) -> list[str]:
    """Paths in `folder` of its regular files that match, '/' between their parts, sorted.

    Args:
      folder: where to look. Links to files are followed, links to folders are not, so that no loop
        can arise; broken links and whatever is no regular file are left out.
      glob: pattern of paths in the folder, '/' between its parts; a part '**' stands for any
        number of folders. Files and folders whose names begin with a dot match only a part that
        begins with a dot itself.

    Raises:
      UserError: no such folder, none of its files matches, or one cannot be read.
    """
    _check_folder(folder)
    patterns = [part for part in glob.split("/") if part not in ("", ".")]
    dotted = any(part.startswith(".") for part in patterns)
    names = [
        name
        for name in files_under(folder, enter=lambda name: dotted or not name.startswith("."))
        if matches(name.split("/"), patterns)
    ]
    if not names:
        raise UserError(
            f"no file in {folder} matches data.glob = '{glob}': "
            "change the pattern ('**/*' takes every file) or data.path"
        )
    for name in names:
        if not os.access(folder / name, os.R_OK):
            raise UserError(
                f"no permission to read {folder / name}: "
                "permit it (chmod +r), or leave it out by data.glob"
            )
    return names


def files_under(folder: Path, enter: Callable[[str], bool]) -> list[str]:
    """Paths in `folder` of its regular files, '/' between their parts, sorted.

    Args:
      folder: where to look.
      enter: whether to look into folders of this name.
    """

    def refuse(error: OSError):
        raise UserError(
            f"cannot list the folder {error.filename} ({error.strerror}): permit it (chmod +rx), "
            "or move it away"
        ) from error

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if enter(name)]
        inside = Path(place).relative_to(folder)
        regular = [name for name in files if os.path.isfile(os.path.join(place, name))]
        found += [(inside / name).as_posix() for name in regular]
    return sorted(found)


def matches(parts: list[str], patterns: list[str]) -> bool:
    """Whether the parts of a path match those of a glob; a leading dot only matches a dot."""
    if not patterns:
        return not parts
    if patterns[0] == "**" and matches(parts, patterns[1:]):
        return True
    if not parts or (parts[0].startswith(".") and not patterns[0].startswith(".")):
        return False
    if patterns[0] == "**":
        return matches(parts[1:], patterns)
    return fnmatchcase(parts[0], patterns[0]) and matches(parts[1:], patterns[1:])


def _check_folder(folder: Path):
    if not folder.exists():
        raise UserError(f"data.path = '{folder}' does not exist: name a folder of text files")
    if not folder.is_dir():
        raise UserError(
            f"data.path = '{folder}' is a file: name its folder, and the file by data.glob"
        )


def check_number(documents: Sequence[str], folder: Path, glob: str):
    """Raises UserError for fewer than two documents, which are those that are not empty."""
    if not documents:
        raise UserError(
            f"every file in {folder} that matches data.glob = '{glob}' is empty: "
            "name another folder by data.path, or other files by data.glob"
        )
    if len(documents) == 1:
        raise UserError(
            f"{documents[0]} is the only document in {folder} for data.glob = '{glob}', but "
            "training and evaluation need one each: split it into two files or more"
        )
