"""Groups the files of a folder into documents, and reads documents in pieces."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from block_recurrent.data.documents import CHUNK_BYTES
from block_recurrent.data.encodings import read_utf8
from block_recurrent.data.held_out import divide, part_name
from block_recurrent.data.text_files import check_not_empty, held_out_files, matching_files
from block_recurrent.errors import UserError

Grouping = Literal["text_files", "arxiv", "github"]
Cut = Literal["anywhere", "at_spaces", "between_words", "nowhere"]

# Where byte-level tokenizers split a text, whatever follows: before a single space between two
# letters, and after a single line end between two characters that are not white space.
BETWEEN_WORDS = re.compile(
    rb"(?<=[A-Za-z])(?= [A-Za-z])"
    rb"|(?:[!-~]|[\xc3-\xdf][\x80-\xbf]|(?!\xe3\x80\x80)[\xe3-\xef][\x80-\xbf]{2})\n"
    rb"(?=[0-9A-Za-z\xc3-\xdf\xe4-\xef])"
)
SEARCHED = 1 << 14  # bytes before the limit in which a place to cut is searched first

SEQIO_SPLITS = {"train": "train", "held_out": "validation", "test": "test"}
ELSEWHERE = re.compile(r"(\.\./[^/]+/)?")  # see `held_out_files`


class FileGroup(NamedTuple):
    """A document, or a part of one: the concatenated contents of its files.

    Attributes:
      name: unique in the folder.
      files: their paths in the folder, sorted.
      sizes: bytes of each file, in UTF-8 if it is converted.
      start: bytes of the files that come before this part.
      stop: bytes of the files up to the end of this part.
    """

    name: str
    files: list[str]
    sizes: list[int]
    start: int
    stop: int


class Grouped(NamedTuple):
    """The documents of a folder.

    Attributes:
      splits: those of "train", "validation" and, if there is one, "test", sorted by name.
      selection: how "validation" was chosen, for the user.
    """

    splits: dict[str, list[FileGroup]]
    selection: str


def group_files(
    folder: Path,
    grouping: Grouping,
    glob: str | Sequence[str],
    held_out_per_mille: int,
    held_out: str | Sequence[str] = (),
    encoding: str | None = None,
) -> Grouped:
    """Groups the files of a folder. See `divide` for what is held out.

    Documents without text are in "train".

    Args:
      folder: where to look.
      grouping: what a document is. 'text_files': one file. 'arxiv': the LaTeX source of a paper,
        which is a .tex file in the folder itself, or all .tex files in one of its subfolders.
        'github': a repository, which is all files in one subfolder.
      glob: which files; see `matching_files`.
      held_out_per_mille: documents per thousand for validation, if `held_out` is empty.
      held_out: the documents that contain one of these files are for validation; see
        `held_out_files`.
      encoding: of the files; see `to_utf8`. None: their bytes are the text. Otherwise all files are
        read, to know the sizes of their texts.

    Raises:
      UserError: the folder does not exist, a file cannot be read, or there is nothing to train on.
    """
    chosen = held_out_files(folder, held_out, glob) if held_out else {}
    paths = {name: folder / name for name in matching_files(folder, glob)} | chosen
    files: dict[str, dict[str, Path]] = {}
    for name, path in sorted(paths.items()):
        if document := _document_of(name, grouping):
            files.setdefault(document, {})[name] = path
    if not files:
        raise _no_documents(folder, grouping, glob)
    groups = [_group(folder, document, files[document], encoding) for document in sorted(files)]
    full = [group for group in groups if group.stop]
    names = [group.name for group in full]
    check_not_empty(names, folder, glob)
    indices = None
    if held_out:
        indices = {i for i, name in enumerate(names) if chosen.keys() & files[name].keys()}

    def read(index: int, start: int, stop: int) -> bytes:
        return b"".join(_chunks(_part(full[index], start, stop), folder, encoding))

    sizes = [group.stop for group in full]
    division = divide(names, sizes, held_out_per_mille, read, indices)
    splits = {
        seqio_split: [_part(full[index], start, stop) for index, start, stop in parts]
        for split, seqio_split in SEQIO_SPLITS.items()
        if (parts := division.parts.get(split))
    }
    splits["train"] = sorted(splits["train"] + [group for group in groups if not group.stop])
    return Grouped(splits, division.reason)


def digest(splits: Mapping[str, Sequence[FileGroup]]) -> str:
    """A 256-bit hash of the names and sizes of all files."""
    hasher = hashlib.sha256()
    for split, groups in splits.items():
        for group in groups:
            hasher.update(json.dumps([split, *group]).encode() + b"\n")
    return hasher.hexdigest()


def read_pieces(
    group: FileGroup,
    folder: Path,
    cut: Cut,
    limit: int = CHUNK_BYTES,
    encoding: str | None = None,
) -> Iterator[tuple[bytes, bool]]:
    """Yields the pieces of a document, each with whether another piece follows.

    Only one piece is in memory at a time.

    Args:
      group: the document.
      folder: the folder that it is in.
      cut: where the document may be cut, if the pieces must have the same tokens as the whole text:
        'anywhere' for byte vocabularies, 'at_spaces' and 'between_words' for vocabularies that
        tokenize each word separately, and 'nowhere' for all others.
      limit: maximum size of a piece in bytes, if there is a place to cut.
      encoding: of the files; see `group_files`.

    Raises:
      UserError: a file cannot be read, or its size has changed.
    """
    return cut_pieces(_chunks(group, folder, encoding), cut, limit)


def cut_pieces(
    chunks: Iterable[bytes], cut: Cut, limit: int = CHUNK_BYTES
) -> Iterator[tuple[bytes, bool]]:
    """Like `read_pieces`, for a document that is given in chunks."""
    place_in = PLACES[cut]
    text, end = bytearray(), limit
    for chunk in chunks:
        text += chunk
        while len(text) > end:
            if place := place_in(text, end):
                yield bytes(text[:place]), True
                del text[:place]
                end = limit
            else:
                end = 2 * len(text)  # so that the time stays linear in the length of the text
    yield bytes(text), False


def _document_of(name: str, grouping: Grouping) -> str | None:
    """The name of the document that a file belongs to; None if it belongs to none."""
    if grouping == "text_files":
        return name
    elsewhere = ELSEWHERE.match(name).group()
    top, in_folder, _ = name.removeprefix(elsewhere).partition("/")
    belongs = name.endswith(".tex") if grouping == "arxiv" else in_folder
    return elsewhere + top if belongs else None


def _group(
    folder: Path, document: str, files: Mapping[str, Path], encoding: str | None
) -> FileGroup:
    try:
        sizes = [_size(path, encoding) for path in files.values()]
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename} ({error.strerror}): restore it, or exclude it with "
            "data.glob"
        ) from error
    places = [os.path.relpath(path, folder) for path in files.values()]
    return FileGroup(document, places, sizes, 0, sum(sizes))


def _size(path: Path, encoding: str | None) -> int:
    if encoding is None:
        return os.stat(path).st_size
    return sum(map(len, read_utf8(path, encoding)))


def _part(group: FileGroup, start: int, stop: int) -> FileGroup:
    name = part_name(group.name, group.stop, start, stop)
    return group._replace(name=name, start=start, stop=stop)


def _no_documents(folder: Path, grouping: Grouping, glob: str) -> UserError:
    what = ".tex file in" if grouping == "arxiv" else "folder with files in"
    return UserError(
        f"no {what} {folder} for data.glob = {glob!r}: change the pattern ('**/*' matches every "
        "file) or data.path"
    )


def _at_the_limit(text: bytearray, limit: int) -> int:
    return limit


def _nowhere(text: bytearray, limit: int) -> int:
    return 0


def _between_words(text: bytearray, limit: int) -> int:
    """The last place of `BETWEEN_WORDS` up to the limit; 0 if there is none."""
    place = 0
    for start in (max(0, limit - SEARCHED), 0):
        for found in BETWEEN_WORDS.finditer(text, start, limit):
            place = found.end()
        if place:
            break
    return place


def _after_a_space(text: bytearray, limit: int) -> int:
    """Cuts after the last space, else after the last line, else between two UTF-8 characters."""
    for space in (b" ", b"\n"):
        if place := text.rfind(space, 0, limit) + 1:
            return place
    place = limit
    while place > limit - 3 and _continues_a_character(text[place]):
        place -= 1
    return limit if _continues_a_character(text[place]) else place


PLACES = {
    "anywhere": _at_the_limit,
    "at_spaces": _after_a_space,
    "between_words": _between_words,
    "nowhere": _nowhere,
}


def _continues_a_character(byte: int) -> bool:
    return byte & 0xC0 == 0x80


def _chunks(group: FileGroup, folder: Path, encoding: str | None) -> Iterator[bytes]:
    """The chunks of a document that are not empty."""
    before = 0  # bytes of the files so far
    for name, size in zip(group.files, group.sizes, strict=True):
        path, first = folder / name, before
        try:
            for chunk in read_utf8(path, encoding):
                start, stop = max(group.start - before, 0), max(group.stop - before, 0)
                before += len(chunk)
                if chunk := chunk[start:stop]:
                    yield chunk
        except OSError as error:
            raise UserError(
                f"cannot read {path} ({error.strerror}): restore it, or run prepare_data again "
                "without it"
            ) from error
        if before - first != size:
            raise UserError(
                f"{path} has {before - first:,} bytes, but had {size:,} at the start: restore it, "
                "or run prepare_data again with the current files"
            )
