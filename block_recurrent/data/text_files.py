"""The files of a folder, and the corpus of those of Python's standard library."""

import os
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.globs import matches, names_dotted, or_below
from block_recurrent.data.held_out import Part, divide_by_hash
from block_recurrent.errors import UserError
from block_recurrent.files.paths import local_path
from block_recurrent.files.written_folders import without_written

INSTALLED = ("site-packages", "dist-packages", "__pycache__")
MACHINE_SPECIFIC = ("_sysconfigdata", "sitecustomize.", "usercustomize.")  # starts of names


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
    documents = ByteDocuments({name: folder / name for name in found if _is_source(name)})
    documents = documents.select(np.flatnonzero(documents.lengths > 1))
    if len(documents.names) < 2:
        raise UserError(
            f"no source files of Python's standard library in {folder}: set data.corpus = "
            "'text_files' and data.path to a folder of text"
        )
    parts = [Part(i, 0, int(length) - 1) for i, length in enumerate(documents.lengths)]
    # Its folders called test are no test splits, so names are not asked.
    *splits, reason = divide_by_hash(documents.names, parts, held_out_per_mille, documents.read)
    train, held_out = (documents.parts(split) for split in splits)
    train.selection = held_out.selection = reason
    return {"train": train, "held_out": held_out}


def matching_files(folder: Path, glob: str | Sequence[str]) -> list[str]:
    """The relative paths of the regular files in `folder` that match, sorted, with '/' separators.

    Args:
      folder: where to look. Links to files are followed. Links to folders are not, to avoid loops.
        Broken links and special files are left out, and so is what this package writes: the folders
        of runs and token stores.
      glob: one or more patterns of relative paths; see `matches`.

    Raises:
      UserError: the folder does not exist, no file matches, or a file cannot be read.
    """
    _check_folder(folder)
    names = [name for name in _walk(folder, glob) if matches(name, glob)]
    check_matched(names, folder, glob)
    for name in names:
        if not os.access(folder / name, os.R_OK):
            raise UserError(
                f"no permission to read {folder / name}: make it readable (chmod +r), or exclude "
                "it with data.glob"
            )
    return names


def held_out_files(
    folder: Path, held_out: str | Sequence[str], glob: str | Sequence[str]
) -> dict[str, Path]:
    """The files that `data.held_out` names: name → path. Those elsewhere have names with '../'.

    Args:
      folder: the folder of the corpus.
      held_out: patterns of paths in the folder, or paths of files and folders, also elsewhere. A
        file in the folder does not need to match `glob`.
      glob: which files of a folder elsewhere; see `matching_files`.

    Raises:
      UserError: one of `held_out` names nothing.
    """
    found = {}
    for item in [held_out] if isinstance(held_out, str) else held_out:
        named = files_named(folder, item, glob)
        if not named:
            raise names_nothing(item, folder)
        found |= named
    return found


def files_named(folder: Path, item: str, glob: str | Sequence[str]) -> dict[str, Path]:
    """The files that one item of `data.held_out` names, or none; see `held_out_files`."""
    place = local_path(item)
    inside = _inside(folder, place)
    if inside and (names := _matching_or_below(folder, inside)):
        return {name: folder / name for name in names}
    if place.is_file():
        return {f"../{place.name}": place}
    if place.is_dir():
        names = matching_files(place, glob)
        return {f"../{place.resolve().name}/{name}": place / name for name in names}
    return {}


def names_nothing(item: str, folder: str | Path) -> UserError:
    """A `UserError` that says that an item of `data.held_out` names nothing."""
    return UserError(
        f"data.held_out = {item!r} matches no file in {folder}, and is no file or folder "
        "elsewhere: give a pattern such as 'valid/**', or the path of a file or folder"
    )


def _inside(folder: Path, place: Path) -> str | None:
    """The pattern of paths in the folder that `place` is; None if it lies elsewhere."""
    if not folder.is_dir():
        return None
    if not place.is_absolute() and ".." not in place.parts:
        return place.as_posix()
    top, place = folder.resolve(), place.parent.resolve() / place.name
    return place.relative_to(top).as_posix() if place.is_relative_to(top) else None


def _matching_or_below(folder: Path, glob: str) -> list[str]:
    """The files in the folder that match, or that lie in a folder that matches."""
    return [name for name in _walk(folder, glob) if matches(name, or_below(glob))]


def _walk(folder: Path, glob: str | Sequence[str]) -> list[str]:
    """All files, without those in hidden folders that cannot match."""
    dotted = names_dotted(glob)
    return files_under(folder, enter=lambda name: dotted or not name.startswith("."))


def files_under(folder: Path, enter: Callable[[str], bool]) -> list[str]:
    """The relative paths of all regular files in `folder`, sorted, with '/' separators.

    Args:
      folder: where to look. Folders of runs and token stores in it are left out; if it is itself
        the folder of a run, the run's own files are.
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
    return sorted(without_written(found))


def check_matched(matching: Sequence, place: str | Path, glob: str | Sequence[str]):
    """Raises UserError if there are no files, which are those `matching` `data.glob`."""
    if not matching:
        raise UserError(
            f"no file in {place} matches data.glob = {glob!r}: "
            "change the pattern ('**/*' matches every file) or data.path"
        )


def check_not_empty(names: Sequence[str], folder: str | Path, glob: str | Sequence[str]):
    """Raises UserError if there are no `names`, which are those of non-empty documents."""
    if not names:
        raise UserError(
            f"every file in {folder} that matches data.glob = {glob!r} is empty: "
            "set data.path or data.glob to other files"
        )


def _check_folder(folder: Path):
    if not folder.exists():
        raise UserError(
            f"data.path = '{folder}' does not exist: set it to a file or folder of text"
        )
    if not folder.is_dir():
        raise UserError(
            f"data.path = '{folder}' is a file: set data.path to its folder, and data.glob to the "
            "name of the file"
        )
    if (folder / "blobs").is_dir() and (folder / "snapshots").is_dir():
        snapshots = sorted((folder / "snapshots").iterdir(), key=os.path.getmtime)
        example = f", such as '{snapshots[-1]}'" if snapshots else ""
        raise UserError(
            f"data.path = '{folder}' is a dataset in the cache of the Hugging Face hub, where each "
            f"file lies twice: set data.path to one of its snapshots{example}"
        )


def _is_library(folder: str) -> bool:
    return folder not in INSTALLED and not folder.startswith("config-")


def _is_source(name: str) -> bool:
    return name.endswith(".py") and not name.rsplit("/", 1)[-1].startswith(MACHINE_SPECIFIC)
