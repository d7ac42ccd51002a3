"""Writes a token store, shard by shard. Only complete shards exist."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Integer

from block_recurrent.data.prepare.document_batch import DocumentBatch
from block_recurrent.data.prepare.lost_text import LostText
from block_recurrent.data.store_format import (
    FORMAT,
    METADATA,
    VOCABULARY_FILES,
    shard_files,
    shard_metadata,
    token_type,
)
from block_recurrent.files.checksums import describe_file
from block_recurrent.files.writing import atomic_write

LOST_COUNTS = ("unknown", "compared_bytes", "lost_bytes")  # of `LostText`
COUNTS = ("documents", "tokens", "bytes", "words", "characters", "empty", "invalid_utf8")
COUNTS += ("skipped_rows",)
BATCH_BYTES = 2**21  # of text and tokens that are written at once


class Shard(NamedTuple):
    """A shard to write, or one of each of several splits that are written together.

    Attributes:
      task: name of the Task.
      splits: of its source, with their names in the store.
      index: from 0.
      num_shards: of each split.
      folder: of the store.
    """

    task: str
    splits: Mapping[str, str]
    index: int
    num_shards: int
    folder: Path

    @property
    def is_finished(self) -> bool:
        """Whether it is complete."""
        paths = (shard_metadata(self.folder, split, self.index) for split in self.splits.values())
        return all(path.is_file() for path in paths)


class ShardWriter:
    """Writes one shard of a split::

        with ShardWriter(folder, "train", 0, vocab_size=260) as writer:
            for name, pieces in documents:
                for tokens, text in pieces:
                    writer.add(tokens, text)
                writer.end_document(name)

    The shard appears when the context ends successfully; after an exception, nothing is left of it.
    Two processes may write the same shard at the same time, because its content is the same.

    Args:
      folder: folder of the store; must exist.
      split: 'train', 'held_out' or another name of letters, digits and '_'.
      shard: number of the shard, from 0.
      vocab_size: number of ids in the vocabulary.
      lost_text: counts what the vocabulary loses; None for bytes, which lose nothing, and for a
        vocabulary that cannot decode.

    Attributes:
      documents, tokens: numbers added so far.
      bytes, words, characters: numbers written so far.
      empty: number of documents omitted because they have no text; the caller counts them.
      invalid_utf8: number of documents that are not valid UTF-8.
      skipped_rows: number of rows left out, of any split; the caller counts them.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        shard: int,
        vocab_size: int,
        lost_text: LostText | None = None,
    ):
        self.folder, self.split, self.shard = folder, split, shard
        self.type, self.lost_text = token_type(vocab_size), lost_text
        self.documents = self.tokens = self.bytes = self.words = self.characters = 0
        self.empty = self.invalid_utf8 = self.skipped_rows = 0
        self._waiting, self._names = DocumentBatch(), []
        self._files: list[_File] = []  # while the context is open: tokens, documents, names
        self._discard = contextlib.ExitStack()

    def __enter__(self) -> "ShardWriter":
        with contextlib.ExitStack() as stack:
            for path in shard_files(self.folder, self.split, self.shard):
                self._files.append(_File(path))
                stack.callback(self._files[-1].discard)
            self._discard = stack.pop_all()
        return self

    def add(self, tokens: Integer[np.ndarray, " length"], text: bytes):
        """Adds a piece of the current document: its tokens, and the bytes that they encode."""
        self._waiting.add(tokens, text)
        if self.lost_text:
            self.lost_text.add(tokens, text)
        self.tokens += len(tokens)
        if self._waiting.size > BATCH_BYTES:
            self._flush()

    def end_document(self, name: str, *, invalid_utf8: bool = False):
        """Ends the current document and names it."""
        self._waiting.end_document()
        self._names.append(json.dumps(name))
        self.documents += 1
        self.invalid_utf8 += invalid_utf8

    def _flush(self):
        """Writes the documents that wait."""
        batch, names = self._waiting.take(), "".join(f"{name}\n" for name in self._names)
        self._names.clear()
        tokens = np.ascontiguousarray(batch.tokens, self.type)
        documents = np.ascontiguousarray(batch.documents, "<i8")
        parts = tokens.data, documents.data, names.encode()
        for file, part in zip(self._files, parts, strict=True):
            file.write(part)
        _, num_bytes, num_words = batch.documents.sum(0).tolist()
        self.bytes += num_bytes
        self.words += num_words
        self.characters += batch.characters

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard.close()

    def _finish(self):
        self._flush()
        for file in self._files:
            file.keep()
        metadata = {count: getattr(self, count) for count in COUNTS}
        if not self.skipped_rows:
            del metadata["skipped_rows"]
        if self.lost_text:
            metadata |= {count: getattr(self.lost_text, count) for count in LOST_COUNTS}
        metadata["files"] = {file.path.name: file.describe() for file in self._files}
        write_json(shard_metadata(self.folder, self.split, self.shard), metadata)


class _File:
    """A file that has a temporary name, unique to this process, until `keep` is called."""

    def __init__(self, path: Path):
        self.path, self.size = path, 0
        self.temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        self._sha256 = hashlib.sha256()
        self._file: BinaryIO = open(self.temporary, "wb")

    def write(self, data: bytes | memoryview):
        self._file.write(data)
        self._sha256.update(data)
        self.size += len(data) if isinstance(data, bytes) else data.nbytes

    def keep(self):
        """Gives the file its final name, after its content is on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self.temporary, self.path)

    def discard(self):
        """Removes the file, unless `keep` was called."""
        try:
            self._file.close()  # fails again on a full disk
        finally:
            self.temporary.unlink(missing_ok=True)

    def describe(self) -> dict[str, int | str]:
        return {"bytes": self.size, "sha256": self._sha256.hexdigest()}


def sum_counts(folder: Path, split: str, num_shards: int) -> dict[str, int]:
    """The counts of a split, summed over its shards."""
    paths = [shard_metadata(folder, split, shard) for shard in range(num_shards)]
    metadata = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {
        count: sum(one.get(count, 0) for one in metadata)
        for count in COUNTS + LOST_COUNTS
        if all(count in one for one in metadata)  # older shards lack some
        or (count == "skipped_rows" and any(count in one for one in metadata))
    }


def finish_store(
    folder: Path,
    *,
    task: str,
    vocabulary: Mapping[str, int | str],
    shards: Mapping[str, int],
):
    """Writes store.json, which makes the folder a store.

    Args:
      folder: folder with all shards, and the vocabulary's file if it has one.
      task: name of the Task that the documents come from; for information only.
      vocabulary: kind, size and eos; see `describe_vocabulary`.
      shards: number of shards per split.
    """
    splits, files = {}, {}
    for split, number in shards.items():
        paths = [shard_metadata(folder, split, shard) for shard in range(number)]
        splits[split] = {"shards": number, **sum_counts(folder, split, number)}
        files |= {path.name: describe_file(path) for path in paths}
    for model in (folder / name for name in VOCABULARY_FILES.values()):
        if model.is_file():
            files[model.name] = describe_file(model)
    store = {"format": FORMAT, "task": task, "vocabulary": dict(vocabulary), "splits": splits}
    write_json(folder / METADATA, store | {"files": files})


def write_mixture(folder: Path, weights: Mapping[str, float]):
    """Writes the store.json of a mixture: the weights of the stores in subfolders, by name."""
    write_json(folder / METADATA, {"format": FORMAT, "mixture": dict(weights)})


def write_json(path: Path, content: Mapping):
    """Writes a JSON file atomically."""
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")
