"""Writes one shard of a token store from the examples of a source."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from block_recurrent.data.prepare.lost_text import LostText
from block_recurrent.data.prepare.source import Example, Source
from block_recurrent.data.prepare.store_writer import LOST_COUNTS, Shard, ShardWriter
from block_recurrent.data.store_format import VOCABULARY_FILES, token_type
from block_recurrent.errors import DISK_FULL, UserError

REPORT_EVERY = 16  # examples

Report = Callable[[Sequence[int]], None]  # its argument: the `COLUMNS` of `store_progress`


def write_shard(source: Source, shard: Shard, report: Report):
    """Writes a shard, completely or not at all.

    Args:
      source: of the examples.
      shard: the shard to write.
      report: called now and then, and when the shard is finished.

    Raises:
      UserError: the source fails, its examples are not documents, or the disk is full.
    """
    try:
        with contextlib.ExitStack() as stack:
            writers = _open_writers(source, shard, stack)
            examples = _located(source.examples(shard), shard)
            for number, example in enumerate(examples):
                writers[example.split].add(example)
                if number % REPORT_EVERY == 0 or example.continues:
                    report(_counts(source, writers.values()))
            for documents in writers.values():
                documents.close(shard)
            next(iter(writers.values())).writer.skipped_rows = source.skipped
    except OSError as error:
        raise write_error(shard.folder, error) from error
    report(_counts(source, writers.values(), finished=1))


def _open_writers(
    source: Source, shard: Shard, stack: contextlib.ExitStack
) -> dict[str, "_DocumentWriter"]:
    """A writer of each split."""
    vocabulary, writers = source.vocabulary, {}
    for split, store_split in shard.splits.items():
        lost_text = LostText(vocabulary) if vocabulary.kind in VOCABULARY_FILES else None
        writer = ShardWriter(shard.folder, store_split, shard.index, vocabulary.size, lost_text)
        stack.enter_context(writer)
        writers[split] = _DocumentWriter(writer, f"{store_split}-{shard.index}", source)
    return writers


def _located(examples: Iterator[Example], shard: Shard) -> Iterator[Example]:
    """The examples, with errors that say where they are."""
    try:
        yield from examples
    except UserError as error:
        raise UserError(f"{_place(shard)}{error}") from error


def _place(shard: Shard) -> str:
    return f"{shard.task}, split '{next(iter(shard.splits))}': " if len(shard.splits) == 1 else ""


def _counts(
    source: Source, writers: Collection["_DocumentWriter"], finished: int = 0
) -> tuple[int, ...]:
    """The `COLUMNS` of `store_progress`."""
    counted = [documents.writer for documents in writers]
    lost = [writer.lost_text for writer in counted if writer.lost_text]
    return (
        source.done,
        sum(writer.documents for writer in counted),
        sum(writer.tokens for writer in counted),
        *(sum(getattr(one, count) for one in lost) for count in LOST_COUNTS),
        finished,
    )


def write_error(folder: Path, error: OSError) -> UserError:
    """A `UserError` that says why a store cannot be written, and what to do."""
    if error.errno in DISK_FULL:
        fix = "free some space and run the same command again; finished shards are kept"
    else:
        fix = "name another --output"
    return UserError(f"cannot write to {folder} ({error.strerror}): {fix}")


class _DocumentWriter:
    """Joins pieces to documents, with an end token after each document, and writes them."""

    def __init__(self, writer: ShardWriter, unnamed: str, source: Source):
        self.writer, self.unnamed = writer, unnamed
        vocabulary = source.vocabulary
        self.is_text, self.end = vocabulary.kind != "bytes", vocabulary.end_id
        self.end_token = np.array([self.end], token_type(vocabulary.size))
        self.number = 0
        self._begin()

    def _begin(self):
        self.num_bytes, self.last_token = 0, None
        self.continues = self.is_invalid = False

    def add(self, example: Example):
        """Adds an example: a document or a piece of one."""
        _, name, text, self.continues, tokens = example
        self.num_bytes += len(text)
        if self.num_bytes:
            self.writer.add(tokens, text)
            self.last_token = int(tokens[-1]) if len(tokens) else self.last_token
        self.is_invalid |= self.is_text and not _is_utf8(text)
        if not self.continues:
            self._end(f"{self.unnamed}-{self.number}" if name is None else name)

    def close(self, shard: Shard):
        """Checks that the last document is complete."""
        if self.continues:
            raise UserError(
                f"{_place(shard)}the last example of a shard has 'continues' set, but no example "
                "follows it"
            )

    def _end(self, name: str):
        if self.num_bytes:
            if self.last_token != self.end:
                self.writer.add(self.end_token, b"")
            self.writer.end_document(name, invalid_utf8=self.is_invalid)
        else:
            self.writer.empty += 1
        self.number += 1
        self._begin()


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
