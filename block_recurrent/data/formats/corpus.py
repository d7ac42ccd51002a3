"""The documents of a file or a folder of files, in whatever formats they are."""

import contextlib
import copy
import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from io import IOBase
from pathlib import Path, PurePosixPath
from typing import Any

from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.encodings import to_utf8, utf8_stream
from block_recurrent.data.formats.compression import decompress, explain_damage
from block_recurrent.data.formats.csv_rows import csv_rows
from block_recurrent.data.formats.groups import are_written, read_groups, write_groups
from block_recurrent.data.formats.json_rows import json_rows
from block_recurrent.data.formats.paths import CorpusPaths
from block_recurrent.data.formats.plain_text import cut, parse_separator, read_chunks
from block_recurrent.data.formats.rows import Document, Fields, Share
from block_recurrent.data.formats.source_files import SourceFile
from block_recurrent.data.formats.suffixes import format_of, split_compression
from block_recurrent.data.formats.tables import arrow_rows, parquet_rows
from block_recurrent.data.held_out import NamedSplits
from block_recurrent.data.split_names import Split
from block_recurrent.files.paths import is_url

READERS = {
    "json": json_rows,
    "csv": functools.partial(csv_rows, delimiter=","),
    "tsv": functools.partial(csv_rows, delimiter="\t"),
    "parquet": parquet_rows,
    "arrow": arrow_rows,
}
TEXTUAL = ("json", "csv", "tsv")  # in which the encoding is that of the file
LEAST_PARTS = 4  # of a corpus of few files, which each part reads from their start


class Corpus:
    """The documents that `data` names.

    Args:
      data: `path`, `glob`, `held_out`, `encoding`, `format` and the options of separators and rows
        are used.

    Attributes:
      files: sorted by name. Beside files with rows, the descriptions that Hugging Face puts there
        (README.md, dataset_info.json, …) are left out.

    Raises:
      UserError: there are no such files, `data.held_out` names nothing, or the options do not fit
        each other.
    """

    def __init__(self, data: DataConfig):
        self.data = data
        self._paths = CorpusPaths(data)
        self.files = self._paths.files
        separator = data.separator
        self._separator = None if separator is None else parse_separator(separator)
        self._fields = Fields(data)
        self._stream: IOBase | None = None  # that was opened last
        self._finished_bytes = 0  # of the files before it

    @property
    def is_plain(self) -> bool:
        """Whether each file is a document as it lies on disk."""
        return (
            self._separator is None
            and self.data.encoding is None
            and all(
                format_of(file.name, self.data.format) == "text"
                and not split_compression(file.name)[1]
                and not is_url(file.path)
                for file in self.files
            )
        )

    @property
    def named(self) -> NamedSplits:
        """The splits of all files, by their paths; see `CorpusPaths`."""
        return self._paths.named

    @property
    def splits(self) -> dict[str, Split | None]:
        """The split of each file, by its path; see `CorpusPaths`."""
        return self._paths.splits

    @property
    def skipped(self) -> int:
        """Rows left out so far because of `data.skip_bad_rows`."""
        return self._fields.skipped

    def reordered(self, first: Callable[[Split | None], bool]) -> "Corpus":
        """The same corpus, with the files first in which something is in such a split."""
        places = (PurePosixPath(path) for path, split in self.splits.items() if first(split))
        names = {str(each) for place in places for each in (place, *place.parents)}
        corpus = copy.copy(self)
        corpus.files = sorted(self.files, key=lambda file: file.name not in names)
        return corpus

    def only(self, file: SourceFile) -> "Corpus":
        """The part of the corpus that is in one of its files."""
        corpus = copy.copy(self)
        corpus.files = [file]
        return corpus

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
        self._finished_bytes = 0
        for file, share in self._shares(part, num_parts):
            with explain_damage(file.name), contextlib.closing(file.open()) as self._stream:
                yield from self._read(file.name, self._stream, share)
            self._finished_bytes += file.size

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_stream": None}  # open files cannot be pickled

    @property
    def bytes_read(self) -> int:
        """Position of the last `rows` in its files, in bytes as they lie there; see `size`."""
        is_open = self._stream is not None and not self._stream.closed
        return self._finished_bytes + (self._stream.tell() if is_open else 0)

    def size(self, part: int, num_parts: int) -> int:
        """The sizes of the files of a part, which all are read from their start."""
        return sum(file.size for file, _ in self._shares(part, num_parts))

    def _shares(self, part: int, num_parts: int) -> Iterator[tuple[SourceFile, Share]]:
        shares = -(-num_parts // len(self.files))  # of each file
        for number in range(part, shares * len(self.files), num_parts):
            index, share = divmod(number, shares)
            yield self.files[index], Share(share, shares)

    def _read(self, name: str, stream: IOBase, share: Share) -> Iterator[Document]:
        stream, kind = decompress(stream, name), format_of(name, self.data.format)
        if self._paths.is_archive(name):
            for path, _, member in self._paths.members(name, stream, share):
                yield from self._read(path, member, Share())
        elif kind == "text":
            yield from self._read_text(name, stream, share)
        else:
            if self.data.encoding is not None and kind in TEXTUAL:
                stream = utf8_stream(stream, self.data.encoding, name)
            rows = READERS[kind](stream, name, self._fields.wanted, share)
            yield from self._fields.documents(name, rows, self.splits.get(name))

    def _read_text(self, name: str, stream: IOBase, share: Share) -> Iterator[Document]:
        chunks, split = read_chunks(stream), self.splits.get(name)
        if self.data.encoding is not None:
            chunks = to_utf8(chunks, self.data.encoding, name)
        if self._separator is None:
            if 0 in share:
                yield Document(name, _explained(name, chunks), split)
            return
        for number, pieces in enumerate(cut(chunks, self._separator)):
            if number in share:
                yield Document(f"{name}:{number + 1}", _explained(name, pieces), split)


def _explained(name: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces, with errors that name the file."""
    with explain_damage(name):
        yield from pieces
