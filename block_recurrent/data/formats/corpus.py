"""The documents of a file or a folder of files, in whatever formats they are."""

import contextlib
import functools
import tempfile
from collections.abc import Iterable, Iterator
from io import IOBase
from pathlib import Path

from block_recurrent.config.options import DataConfig
from block_recurrent.data.formats.archives import members
from block_recurrent.data.formats.compression import decompress, explain_damage
from block_recurrent.data.formats.csv_rows import csv_rows
from block_recurrent.data.formats.groups import are_written, read_groups, write_groups
from block_recurrent.data.formats.json_rows import json_rows
from block_recurrent.data.formats.plain_text import cut, parse_separator, read_chunks
from block_recurrent.data.formats.rows import Document, Fields, Share
from block_recurrent.data.formats.source_files import SourceFile, find_files
from block_recurrent.data.formats.suffixes import ROWS, format_of, split_compression
from block_recurrent.data.formats.tables import arrow_rows, parquet_rows
from block_recurrent.files.paths import is_url

READERS = {
    "json": json_rows,
    "csv": functools.partial(csv_rows, delimiter=","),
    "tsv": functools.partial(csv_rows, delimiter="\t"),
    "parquet": parquet_rows,
    "arrow": arrow_rows,
}
# What Hugging Face datasets has beside the files with the rows.
DESCRIPTIONS = ("readme.md", "dataset_dict.json", "dataset_info.json", "dataset_infos.json")
DESCRIPTIONS += ("state.json", "license", "license.md", "license.txt")
CACHES = "cache-"  # starts of the names of its intermediate results
LEAST_PARTS = 4  # of a corpus of few files, which each part reads from their start


class Corpus:
    """The documents that `data` names.

    Args:
      data: `path`, `glob`, `format` and the options of separators and rows are used.

    Attributes:
      files: sorted by name. Beside files with rows, the descriptions that Hugging Face puts there
        (README.md, dataset_info.json, …) are left out.

    Raises:
      UserError: there are no such files, or the options do not fit each other.
    """

    def __init__(self, data: DataConfig):
        self.data = data
        self.files = self._without_descriptions(find_files(data.path, data.glob))
        separator = data.separator
        self._separator = None if separator is None else parse_separator(separator)
        self._fields = Fields(data)

    @property
    def is_plain(self) -> bool:
        """Whether each file is a document as it lies on disk."""
        return self._separator is None and all(
            format_of(file.name, self.data.format) == "text"
            and not split_compression(file.name)[1]
            and not is_url(file.path)
            for file in self.files
        )

    @property
    def skipped(self) -> int:
        """Rows left out so far because of `data.skip_bad_rows`."""
        return self._fields.skipped

    def parts(self, most: int) -> int:
        """In how many parts the corpus can be read side by side.

        Each part that has a share in a file reads it from its start, so there are few per file.
        """
        return min(most, max(len(self.files), LEAST_PARTS))

    def documents(
        self, part: int = 0, num_parts: int = 1, sorted_rows: Path | None = None
    ) -> Iterator[Document]:
        """The documents, or one part of them.

        They are in the order of the files, and of each file; with `data.group_by`, in the order of
        their names.

        Args:
          part: from 0.
          num_parts: parts that make up the whole.
          sorted_rows: folder in which `sort_rows` has sorted the rows that `data.group_by` groups;
            None: they are sorted now, in a temporary folder.

        Raises:
          UserError: a file is damaged, or a row of it is no document.
        """
        if self.data.group_by is None:
            yield from self.rows(part, num_parts)
            return
        with contextlib.ExitStack() as stack:
            if sorted_rows is None:
                sorted_rows = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                self.sort_rows(sorted_rows)
            yield from read_groups(sorted_rows, Share(part, num_parts))

    def sort_rows(self, folder: Path):
        """Sorts the rows that `data.group_by` groups, unless the folder has them already."""
        if not are_written(folder):
            write_groups(self.rows(), folder)

    def rows(self, part: int = 0, num_parts: int = 1) -> Iterator[Document]:
        """The documents before `data.group_by` joins those of the same name."""
        shares = -(-num_parts // len(self.files))  # of each file
        for number in range(part, shares * len(self.files), num_parts):
            index, share = divmod(number, shares)
            file = self.files[index]
            with explain_damage(file.name), contextlib.closing(file.open()) as stream:
                yield from self._read(file.name, stream, Share(share, shares))

    def _read(self, name: str, stream: IOBase, share: Share) -> Iterator[Document]:
        stream, kind = decompress(stream, name), format_of(name, self.data.format)
        if kind in ("tar", "zip"):
            for path, member in members(stream, name, kind, share):
                yield from self._read(f"{name}/{path}", member, Share())
        elif kind == "text":
            yield from self._read_text(name, stream, share)
        else:
            rows = READERS[kind](stream, name, self._fields.wanted, share)
            yield from self._fields.documents(name, rows)

    def _read_text(self, name: str, stream: IOBase, share: Share) -> Iterator[Document]:
        if self._separator is None:
            if 0 in share:
                yield Document(name, _explained(name, read_chunks(stream)))
            return
        for number, pieces in enumerate(cut(stream, self._separator)):
            if number in share:
                yield Document(f"{name}:{number + 1}", _explained(name, pieces))

    def _without_descriptions(self, files: list[SourceFile]) -> list[SourceFile]:
        formats = {format_of(file.name, self.data.format) for file in files}
        if formats.isdisjoint(ROWS.values()):
            return files
        names = (file.name.rpartition("/")[2].lower() for file in files)
        kept = [
            file
            for file, name in zip(files, names, strict=True)
            if name not in DESCRIPTIONS and not name.startswith(CACHES)
        ]
        return kept or files


def _explained(name: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces, with errors that name the file."""
    with explain_damage(name):
        yield from pieces
