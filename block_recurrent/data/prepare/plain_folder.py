"""A folder of plain files, whose documents are known without reading them."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from block_recurrent.data.prepare.folder_documents import (
    Cut,
    FileGroup,
    Grouped,
    Grouping,
    digest,
    group_files,
    read_pieces,
)
from block_recurrent.data.prepare.store_writer import Shard
from block_recurrent.files.paths import local_path


class PlainFolder:
    """The documents in the files of a folder. It is listed when it is first needed.

    The arguments are explained in `group_files`, and `cut` in `read_pieces`.

    Attributes:
      done: bytes read so far of the shard that is being read.
    """

    skipped = 0

    def __init__(
        self,
        path: str | Path,
        grouping: Grouping,
        glob: str | Sequence[str],
        held_out_per_mille: int,
        cut: Cut,
        held_out: str | Sequence[str],
        encoding: str | None,
    ):
        self.path, self.grouping, self.glob = local_path(path), grouping, glob
        self.held_out_per_mille, self.held_out = held_out_per_mille, held_out
        self.cut, self.encoding, self.done = cut, encoding, 0

    @property
    def passes(self) -> tuple[tuple[str, ...], ...]:
        return tuple((split,) for split in self.documents)

    @property
    def documents(self) -> Mapping[str, Sequence[FileGroup]]:
        """The documents of each split."""
        return self.grouped.splits

    @functools.cached_property
    def grouped(self) -> Grouped:
        """The documents, and how they were divided."""
        choice = self.held_out_per_mille, self.held_out, self.encoding
        return group_files(self.path, self.grouping, self.glob, *choice)

    def describe(self) -> dict[str, Any]:
        settings = ("grouping", "glob", "held_out_per_mille", "held_out", "cut", "encoding")
        return {name: getattr(self, name) for name in settings} | {"files": digest(self.documents)}

    def num_shards(self, split: str, most: int) -> int:
        return max(1, min(most, len(self.documents[split])))

    def size(self, shard: Shard) -> int:
        return sum(document.stop - document.start for document in self._documents_of(shard))

    def begin(self, folder: Path):
        """Nothing has to be done."""

    def end(self, folder: Path):
        """Nothing has to be done."""

    def pieces(self, shard: Shard) -> Iterator[tuple[str, str, bytes, bool]]:
        """Yields split, name and text of each piece, and whether its document goes on."""
        (split,) = shard.splits
        self.done = 0
        for document in self._documents_of(shard):
            for text, continues in self.read(document):
                self.done += len(text)
                yield split, document.name, text, continues

    def read(self, document: FileGroup) -> Iterator[tuple[bytes, bool]]:
        """Yields the pieces of a document, and whether it goes on; see `read_pieces`."""
        return read_pieces(document, self.path, self.cut, encoding=self.encoding)

    def _documents_of(self, shard: Shard) -> Sequence[FileGroup]:
        (split,) = shard.splits
        return self.documents[split][shard.index :: shard.num_shards]
