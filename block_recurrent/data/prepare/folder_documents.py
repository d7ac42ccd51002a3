"""Groups the files of a folder into documents, and reads documents in pieces."""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from block_recurrent.data.documents import CHUNK_BYTES, choose_held_out
from block_recurrent.data.text_files import check_number_of_documents, matching_files
from block_recurrent.errors import UserError

Grouping = Literal["text_files", "arxiv", "github"]
Cut = Literal["anywhere", "at_spaces", "nowhere"]


class FileGroup(NamedTuple):
    """A document: the concatenated contents of its files.

    Attributes:
      name: unique in the folder.
      files: their paths in the folder, sorted.
      sizes: bytes of each file.
    """

    name: str
    files: list[str]
    sizes: list[int]


def group_files(
    folder: Path, grouping: Grouping, glob: str, held_out_per_mille: int
) -> dict[str, list[FileGroup]]:
    """The documents of "train" and "validation", sorted by name; see `choose_held_out`.

    Documents without text are in "train".

    Args:
      folder: where to look.
      grouping: what a document is. 'text_files': one file. 'arxiv': the LaTeX source of a paper,
        which is a .tex file in the folder itself, or all .tex files in one of its subfolders.
        'github': a repository, which is all files in one subfolder.
      glob: which files; see `matching_files`.
      held_out_per_mille: documents per thousand for validation.

    Raises:
      UserError: the folder does not exist, a file cannot be read, or there are fewer than two
        documents.
    """
    files: dict[str, list[str]] = {}
    for name in matching_files(folder, glob):
        if document := _document_of(name, grouping):
            files.setdefault(document, []).append(name)
    if not files:
        raise _no_documents(folder, grouping, glob)
    groups = [_group(folder, document, files[document]) for document in sorted(files)]
    sizes = {group.name: sum(group.sizes) for group in groups if any(group.sizes)}
    check_number_of_documents(list(sizes), folder, glob)
    chosen = choose_held_out(list(sizes), list(sizes.values()), held_out_per_mille)
    held_out = dict(zip(sizes, chosen, strict=True))
    return {
        "train": [group for group in groups if not held_out.get(group.name)],
        "validation": [group for group in groups if held_out.get(group.name)],
    }


def digest(splits: Mapping[str, Sequence[FileGroup]]) -> str:
    """A 256-bit hash of the names and sizes of all files."""
    hasher = hashlib.sha256()
    for split, groups in splits.items():
        for group in groups:
            hasher.update(json.dumps([split, *group]).encode() + b"\n")
    return hasher.hexdigest()


def read_pieces(
    files: Sequence[Path], sizes: Sequence[int], cut: Cut, limit: int = CHUNK_BYTES
) -> Iterator[tuple[bytes, bool]]:
    """Yields the pieces of a document, each with whether another piece follows.

    Only one piece is in memory at a time.

    Args:
      files: the files of the document, in order.
      sizes: bytes of each file.
      cut: where the document may be cut, if the pieces must have the same tokens as the whole text:
        'anywhere' for byte vocabularies, 'at_spaces' for vocabularies that tokenize each word
        separately, and 'nowhere' for all others.
      limit: maximum size of a piece in bytes, unless `cut` is 'nowhere'.

    Raises:
      UserError: a file cannot be read, or its size has changed.
    """
    return cut_pieces(_chunks(files, sizes), cut, limit)


def cut_pieces(
    chunks: Iterable[bytes], cut: Cut, limit: int = CHUNK_BYTES
) -> Iterator[tuple[bytes, bool]]:
    """Like `read_pieces`, for a document that is given in chunks."""
    place_in = _after_a_space if cut == "at_spaces" else _at_the_limit
    text = bytearray()
    for chunk in chunks:
        text += chunk
        while len(text) > (sys.maxsize if cut == "nowhere" else limit):
            place = place_in(text, limit)
            yield bytes(text[:place]), True
            del text[:place]
    yield bytes(text), False


def _document_of(name: str, grouping: Grouping) -> str | None:
    """The name of the document that a file belongs to; None if it belongs to none."""
    top, in_folder, _ = name.partition("/")
    if grouping == "text_files":
        return name
    if grouping == "arxiv":
        return top if name.endswith(".tex") else None
    return top if in_folder else None


def _group(folder: Path, document: str, files: list[str]) -> FileGroup:
    try:
        sizes = [os.stat(folder / file).st_size for file in files]
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename} ({error.strerror}): restore it, or exclude it with "
            "data.glob"
        ) from error
    return FileGroup(document, files, sizes)


def _no_documents(folder: Path, grouping: Grouping, glob: str) -> UserError:
    what = ".tex file in" if grouping == "arxiv" else "folder with files in"
    return UserError(
        f"no {what} {folder} for data.glob = '{glob}': change the pattern ('**/*' matches every "
        "file) or data.path"
    )


def _at_the_limit(text: bytearray, limit: int) -> int:
    return limit


def _after_a_space(text: bytearray, limit: int) -> int:
    """Cuts after the last space, else after the last line, else between two UTF-8 characters."""
    for space in (b" ", b"\n"):
        if place := text.rfind(space, 0, limit) + 1:
            return place
    place = limit
    while place > limit - 3 and _continues_a_character(text[place]):
        place -= 1
    return limit if _continues_a_character(text[place]) else place


def _continues_a_character(byte: int) -> bool:
    return byte & 0xC0 == 0x80


def _chunks(files: Sequence[Path], sizes: Sequence[int]) -> Iterator[bytes]:
    for path, size in zip(files, sizes, strict=True):
        read = 0
        try:
            with open(path, "rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    read += len(chunk)
                    yield chunk
        except OSError as error:
            raise UserError(
                f"cannot read {path} ({error.strerror}): restore it, or run prepare_data again "
                "without it"
            ) from error
        if read != size:
            raise UserError(
                f"{path} has {read:,} bytes, but had {size:,} at the start: restore it, or run "
                "prepare_data again with the current files"
            )
