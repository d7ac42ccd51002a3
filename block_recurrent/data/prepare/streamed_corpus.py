"""Documents of any format for a store, read in parts, each with its training and held-out ones."""

import functools
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from block_recurrent.data.documents import choose_held_out, is_held_out
from block_recurrent.data.formats.corpus import Corpus
from block_recurrent.data.prepare.folder_documents import Cut, cut_pieces
from block_recurrent.data.prepare.store_writer import Shard
from block_recurrent.data.text_files import check_number_of_documents

ROWS = "rows"  # folder in the unfinished store, with the rows that data.group_by groups
OPTIONS = ("glob", "held_out_per_mille", "format", "separator", "text_field", "name_field")
OPTIONS += ("group_by", "order_by", "skip_bad_rows")


class StreamedCorpus:
    """The documents of a corpus. Memory grows neither with their number nor with their lengths.

    Args:
      corpus: the documents.
      cut: where they may be cut; see `read_pieces`.
    """

    passes = (("train", "validation"),)

    def __init__(self, corpus: Corpus, cut: Cut):
        self.corpus, self.cut = corpus, cut
        self._skipped_before = 0  # the shard

    @functools.cached_property
    def exceptions(self) -> Mapping[str, bool]:
        """The few documents that are held out, or not, whatever the hash of their names says.

        See `choose_held_out`. Reads until it has found a document for each split, or all.
        """
        per_mille = self.corpus.data.held_out_per_mille
        sizes: dict[str, int] = {}
        choices = set()
        for document in self.corpus.rows():
            if size := sum(map(len, document.pieces)):
                sizes[document.name] = sizes.get(document.name, 0) + size
                choices.add(is_held_out(document.name, per_mille))
                if len(choices) == 2:
                    return {}
        check_number_of_documents(list(sizes), self.corpus.data.path, self.corpus.data.glob)
        chosen = choose_held_out(list(sizes), list(sizes.values()), per_mille)
        return {
            name: bool(held_out)
            for name, held_out in zip(sizes, chosen, strict=True)
            if held_out != is_held_out(name, per_mille)
        }

    def describe(self) -> dict[str, Any]:
        files = hashlib.sha256()
        for file in self.corpus.files:
            files.update(json.dumps([file.name, file.size]).encode() + b"\n")
        options = {name: getattr(self.corpus.data, name) for name in OPTIONS}
        exceptions = hashlib.sha256(json.dumps(self.exceptions).encode()).hexdigest()
        found = {"files": files.hexdigest(), "exceptions": exceptions}
        return options | {"cut": self.cut} | found

    def num_shards(self, split: str, most: int) -> int:
        return self.corpus.parts(most)

    def num_examples(self, split: str) -> None:
        return None

    def begin(self, folder: Path):
        if self.corpus.data.group_by is not None:
            (folder / ROWS).mkdir(exist_ok=True)
            before = self.corpus.skipped
            self.corpus.sort_rows(folder / ROWS)
            if skipped := self.corpus.skipped - before:
                print(f"{skipped:,} rows left out (data.skip_bad_rows)")

    def end(self, folder: Path):
        shutil.rmtree(folder / ROWS, ignore_errors=True)

    def pieces(self, shard: Shard) -> Iterator[tuple[str, str, bytes, bool]]:
        """Yields split, name and text of each piece, and whether its document goes on."""
        per_mille = self.corpus.data.held_out_per_mille
        self._skipped_before = self.corpus.skipped
        documents = self.corpus.documents(shard.index, shard.num_shards, shard.folder / ROWS)
        for name, pieces, _ in documents:
            held_out = self.exceptions.get(name)
            if held_out is None:
                held_out = is_held_out(name, per_mille)
            split = "validation" if held_out else "train"
            for text, continues in cut_pieces(pieces, self.cut):
                yield split, name, text, continues

    @property
    def skipped(self) -> int:
        return self.corpus.skipped - self._skipped_before
