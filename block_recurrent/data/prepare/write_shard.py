"""Writes one shard of a token store from the examples of a source."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from block_recurrent.data.prepare.source import Example, Source
from block_recurrent.data.prepare.store_writer import Shard, ShardWriter
from block_recurrent.data.store_format import token_type
from block_recurrent.errors import DISK_FULL, UserError

REPORT_EVERY = 16  # examples

Report = Callable[[int, int, int], None]  # arguments: numbers of examples, documents and tokens


def write_shard(source: Source, shard: Shard, report: Report):
    """Writes a shard, completely or not at all.

    Args:
      source: of the examples.
      shard: the shard to write.
      report: called now and then.

    Raises:
      UserError: the source fails, its examples are not documents, or the disk is full.
    """
    try:
        with contextlib.ExitStack() as stack:
            splits = {}
            for split, store_split in shard.splits.items():
                size = source.vocabulary["size"]
                writer = ShardWriter(shard.folder, store_split, shard.index, size)
                stack.enter_context(writer)
                splits[split] = _DocumentWriter(writer, f"{store_split}-{shard.index}", source)
            writers = [documents.writer for documents in splits.values()]
            for number, example in enumerate(source.examples(shard)):
                splits[example.split].add(example)
                if number % REPORT_EVERY == 0 or example.continues:
                    documents = sum(writer.documents for writer in writers)
                    report(number + 1, documents, sum(writer.tokens for writer in writers))
            for documents in splits.values():
                documents.close()
            writers[0].skipped_rows = source.skipped
    except OSError as error:
        raise write_error(shard.folder, error) from error
    except UserError as error:
        if len(shard.splits) > 1:
            raise
        raise UserError(f"{shard.task}, split '{next(iter(shard.splits))}': {error}") from error


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
        self.is_text = source.vocabulary["kind"] != "bytes"
        self.end = source.vocabulary["eos"]
        self.end_token = np.array([self.end], token_type(source.vocabulary["size"]))
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

    def close(self):
        """Checks that the last document is complete."""
        if self.continues:
            raise UserError(
                "the last example of a shard has 'continues' set, but no example follows it"
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
