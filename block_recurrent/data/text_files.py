"""Corpora of text files, one document per file: any folder, or Python's standard library."""

import os
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from block_recurrent.data.documents import ByteDocuments, divide_documents
from block_recurrent.data.encodings import read_utf8
from block_recurrent.data.globs import matches, names_dotted
from block_recurrent.data.held_out import Part, divide_by_hash
from block_recurrent.errors import UserError
from block_recurrent.files.written_folders import RUN_FILES, is_run, is_store

MOST_CONVERTED = 2**30  # bytes
INSTALLED = ("site-packages", "dist-packages", "__pycache__")
MACHINE_SPECIFIC = ("_sysconfigdata", "sitecustomize.", "usercustomize.")  # starts of names


def load_text_files(
    path: str | Path,
    glob: str | Sequence[str] = "**/*",
    held_out_per_mille: int = 20,
    held_out: str | Sequence[str] = (),
    encoding: str | None = None,
) -> dict[str, ByteDocuments]:
    """The matching files of a folder, as "train" and "held_out", and "test" if there is one.

    A document's name is its path in the folder, with '/' on every system. Documents are sorted by
    name. Empty files are left out. See `divide` for what is held out.

    Args:
      path: the folder; '~' is the home folder.
      glob: which files; see `matching_files`.
      held_out_per_mille: documents per thousand to hold out, if `held_out` is empty.
      held_out: what to hold out: patterns of paths in the folder, or paths of files and folders,
        also elsewhere. A file does not need to match `glob`.
      encoding: of the files, which are then converted in memory; see `to_utf8`. None: their bytes
        are the documents, and are read where they lie.

    Raises:
      UserError: the folder does not exist, a file cannot be read, `held_out` names nothing, or
        there is nothing to train on.
    """
    folder = Path(path).expanduser()
    files = {name: folder / name for name in matching_files(folder, glob)}
    chosen = held_out_files(folder, held_out, glob) if held_out else {}
    files = dict(sorted({**files, **chosen}.items()))
    documents = _without_empty(files if encoding is None else _convert(files, encoding))
    check_not_empty(documents.names, folder, glob)
    indices = None
    if held_out:
        indices = {i for i, name in enumerate(documents.names) if name in chosen}
        if not indices:
            raise UserError(f"every file that data.held_out = {held_out!r} names is empty")
    return divide_documents(documents, held_out_per_mille, indices)


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
    documents = _without_empty({name: folder / name for name in found if _is_source(name)})
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
    globs = [glob] if isinstance(glob, str) else glob
    dotted = any(map(names_dotted, globs))
    found = files_under(folder, enter=lambda name: dotted or not name.startswith("."))
    names = [name for name in found if any(matches(name, each) for each in globs)]
    if not names:
        raise UserError(
            f"no file in {folder} matches data.glob = {glob!r}: "
            "change the pattern ('**/*' matches every file) or data.path"
        )
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
      held_out: see `load_text_files`.
      glob: which files of a folder elsewhere; see `matching_files`.

    Raises:
      UserError: one of `held_out` names nothing.
    """
    found = {}
    for item in [held_out] if isinstance(held_out, str) else held_out:
        place = Path(item).expanduser()
        inside = _inside(folder, place)
        if inside and (names := _matching_or_below(folder, inside)):
            found |= {name: folder / name for name in names}
        elif place.is_file():
            found[f"../{place.name}"] = place
        elif place.is_dir():
            names = matching_files(place, glob)
            found |= {f"../{place.resolve().name}/{name}": place / name for name in names}
        else:
            raise UserError(
                f"data.held_out = {item!r} matches no file in {folder}, and is no file or folder "
                "elsewhere: give a pattern such as 'valid/**', or the path of a file or folder"
            )
    return found


def _inside(folder: Path, place: Path) -> str | None:
    """The pattern of paths in the folder that `place` is; None if it lies elsewhere."""
    if not place.is_absolute() and ".." not in place.parts:
        return place.as_posix()
    top, place = folder.resolve(), place.parent.resolve() / place.name
    return place.relative_to(top).as_posix() if place.is_relative_to(top) else None


def _matching_or_below(folder: Path, glob: str) -> list[str]:
    """The files in the folder that match, or that lie in a folder that matches."""
    globs = [glob, f"{glob}/**/*"]
    names = files_under(folder, enter=lambda name: names_dotted(glob) or not name.startswith("."))
    return [name for name in names if any(matches(name, each) for each in globs)]


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
        inside = Path(place).relative_to(folder)
        own = RUN_FILES if is_run(files, folders) else ()
        written = bool(own) or is_store(inside.name, files)
        if written and inside.parts:
            folders[:] = []
            continue
        folders[:] = [name for name in folders if name not in own and enter(name)]
        regular = [name for name in files if os.path.isfile(os.path.join(place, name))]
        found += [(inside / name).as_posix() for name in regular if name not in own]
    return sorted(found)


def check_not_empty(names: Sequence[str], folder: Path, glob: str | Sequence[str]):
    """Raises UserError if there are no `names`, which are those of non-empty documents."""
    if not names:
        raise UserError(
            f"every file in {folder} that matches data.glob = {glob!r} is empty: "
            "set data.path or data.glob to other files"
        )


def _convert(files: Mapping[str, Path], encoding: str) -> dict[str, bytes]:
    """The texts of the files in UTF-8."""
    texts, room = {}, MOST_CONVERTED
    for name, path in files.items():
        chunks = []
        try:
            for chunk in read_utf8(path, encoding):
                chunks.append(chunk)
                room -= len(chunk)
                if room < 0:
                    raise UserError(
                        f"more than {MOST_CONVERTED // 2**30} GiB would be converted from "
                        f"data.encoding = '{encoding}' in memory: make a token store with python "
                        "-m block_recurrent.prepare_data and train on it, or convert the files"
                    )
        except OSError as error:
            raise UserError(f"cannot read {path} ({error.strerror}): restore it") from error
        texts[name] = b"".join(chunks)
    return texts


def _without_empty(files: Mapping[str, bytes | Path]) -> ByteDocuments:
    documents = ByteDocuments(files)
    return documents.select(np.flatnonzero(documents.lengths > 1))


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
