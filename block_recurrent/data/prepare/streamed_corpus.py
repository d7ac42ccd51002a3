"""Documents of any format for a store, read in parts, each with documents of all splits."""

import functools
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from block_recurrent.data.formats.corpus import Corpus
from block_recurrent.data.formats.groups import TEXTS
from block_recurrent.data.prepare.folder_documents import SEQIO_SPLITS, Cut, cut_pieces
from block_recurrent.data.prepare.store_writer import Shard
from block_recurrent.data.prepare.streamed_division import StreamedDivision, take_parts

ROWS = "rows"  # folder in the unfinished store, with the rows that data.group_by groups
OPTIONS = ("glob", "held_out_per_mille", "held_out", "encoding", "format", "separator")
OPTIONS += ("text_field", "name_field", "group_by", "order_by", "skip_bad_rows")


class StreamedCorpus:
    """The documents of a corpus. Memory grows neither with their number nor with their lengths.

    Args:
      corpus: the documents.
      cut: where they may be cut; see `read_pieces`.
    """

    def __init__(self, corpus: Corpus, cut: Cut):
        self.corpus, self.cut = corpus, cut
        self._skipped_before = 0  # the shard
        self._read = 0  # bytes of the text of the shard

    @property
    def passes(self) -> tuple[tuple[str, ...], ...]:
        has_test = "test" in self.corpus.splits.values()
        return (tuple(SEQIO_SPLITS.values()) if has_test else ("train", "validation"),)

    @functools.cached_property
    def division(self) -> StreamedDivision:
        """What each split contains."""
        return StreamedDivision(self.corpus)

    def describe(self) -> dict[str, Any]:
        files = hashlib.sha256()
        for file in self.corpus.files:
            files.update(json.dumps([file.name, file.size]).encode() + b"\n")
        options = {name: getattr(self.corpus.data, name) for name in OPTIONS}
        few = hashlib.sha256(json.dumps(self.division.few).encode()).hexdigest()
        return options | {"cut": self.cut, "files": files.hexdigest(), "few": few}

    def num_shards(self, split: str, most: int) -> int:
        return self.corpus.parts(most)

    def size(self, shard: Shard) -> int:
        if self._is_grouped:
            return (shard.folder / ROWS / TEXTS).stat().st_size // shard.num_shards
        return self.corpus.size(shard.index, shard.num_shards)

    def begin(self, folder: Path):
        if self._is_grouped:
            (folder / ROWS).mkdir(exist_ok=True)
            print("sorting the rows that data.group_by joins", flush=True)
            before = self.corpus.skipped
            self.corpus.sort_rows(folder / ROWS)
            if skipped := self.corpus.skipped - before:
                print(f"{skipped:,} rows left out (data.skip_bad_rows)")

    def end(self, folder: Path):
        shutil.rmtree(folder / ROWS, ignore_errors=True)

    def pieces(self, shard: Shard) -> Iterator[tuple[str, str, bytes, bool]]:
        """Yields split, name and text of each piece, and whether its document goes on."""
        division = self.division
        self._skipped_before, self._read = self.corpus.skipped, 0
        documents = self.corpus.documents(shard.index, shard.num_shards, shard.folder / ROWS)
        for document in documents:
            for part, pieces in take_parts(document, division.parts(document)):
                split = SEQIO_SPLITS[part.split]
                for text, continues in cut_pieces(pieces, self.cut):
                    self._read += len(text)
                    yield split, part.name, text, continues

    @property
    def skipped(self) -> int:
        return self.corpus.skipped - self._skipped_before

    @property
    def done(self) -> int:
        """Bytes of the files as they lie on disk; of grouped rows, bytes of text."""
        return self._read if self._is_grouped else self.corpus.bytes_read

    @property
    def _is_grouped(self) -> bool:
        return self.corpus.data.group_by is not None
