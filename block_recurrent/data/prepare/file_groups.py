"""The files of a folder, grouped to documents and divided into splits."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from block_recurrent.data.documents import choose_held_out
from block_recurrent.data.text_files import check_number, matching_files
from block_recurrent.errors import UserError

Grouping = Literal["text_files", "arxiv", "github"]


class FileGroup(NamedTuple):
    """A document: the contents of files, one after another.

    Attributes:
      name: unique in the folder.
      files: their paths in the folder, sorted.
      sizes: bytes of each.
    """

    name: str
    files: list[str]
    sizes: list[int]


def group_files(
    folder: Path, grouping: Grouping, glob: str, held_out_per_mille: int
) -> dict[str, list[FileGroup]]:
    """The documents of "train" and "validation", sorted by name; see `choose_held_out`.

    Documents without text are among those of "train".

    Args:
      folder: where to look.
      grouping: what makes a document: 'text_files': a file; 'arxiv': the LaTeX of a paper, which is
        a .tex file in the folder, or all those in one of its folders; 'github': a repository, which
        is all files in one of its folders.
      glob: which files; see `matching_files`.
      held_out_per_mille: documents in a thousand for validation.

    Raises:
      UserError: no such folder, a file that cannot be read, or fewer than two documents.
    """
    files: dict[str, list[str]] = {}
    for name in matching_files(folder, glob):
        if document := _document(name, grouping):
            files.setdefault(document, []).append(name)
    if not files:
        raise _no_documents(folder, grouping, glob)
    groups = [_group(folder, document, files[document]) for document in sorted(files)]
    sizes = {group.name: sum(group.sizes) for group in groups if any(group.sizes)}
    check_number(list(sizes), folder, glob)
    chosen = choose_held_out(list(sizes), list(sizes.values()), held_out_per_mille)
    held_out = dict(zip(sizes, chosen, strict=True))
    return {
        "train": [group for group in groups if not held_out.get(group.name)],
        "validation": [group for group in groups if held_out.get(group.name)],
    }


def digest(splits: Mapping[str, Sequence[FileGroup]]) -> str:
    """Names and sizes of all files, in 256 bits."""
    hasher = hashlib.sha256()
    for split, groups in splits.items():
        for group in groups:
            hasher.update(json.dumps([split, *group]).encode() + b"\n")
    return hasher.hexdigest()


def _document(name: str, grouping: Grouping) -> str | None:
    """The document to which a file belongs; None if to none."""
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
            f"cannot read {error.filename} ({error.strerror}): restore it, or leave it out by "
            "data.glob"
        ) from error
    return FileGroup(document, files, sizes)


def _no_documents(folder: Path, grouping: Grouping, glob: str) -> UserError:
    what = ".tex file in" if grouping == "arxiv" else "folder with files in"
    return UserError(
        f"no {what} {folder} for data.glob = '{glob}': change the pattern ('**/*' takes every "
        "file) or data.path"
    )
