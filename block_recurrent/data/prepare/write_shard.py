"""Writes one shard of a token store from the examples of a seqio Task."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from jaxtyping import Integer

from block_recurrent.data.prepare.lost_text import LostText
from block_recurrent.data.prepare.seqio_vocabularies import from_seqio
from block_recurrent.data.prepare.store_writer import Shard, ShardWriter
from block_recurrent.data.store_format import VOCABULARY_FILES
from block_recurrent.data.vocabularies import ByteVocabulary, Vocabulary
from block_recurrent.errors import DISK_FULL, UserError
from block_recurrent.freed_memory import keep_freed_memory

Report = Callable[[int, int, int], None]  # arguments: numbers of examples, documents and tokens


def write_shard(shard: Shard, report: Report):
    """Writes a shard, completely or not at all.

    Args:
      shard: the shard to write.
      report: called after each example.

    Raises:
      UserError: the Task fails, its examples are not documents, or the disk is full.
    """
    task = seqio.get_mixture_or_task(shard.task)
    vocabulary = from_seqio(task.output_features["targets"].vocabulary)
    try:
        lost_text = LostText(vocabulary) if vocabulary.kind in VOCABULARY_FILES else None
        with ShardWriter(
            shard.folder, shard.store_split, shard.index, vocabulary.size, lost_text
        ) as writer:
            documents = _DocumentWriter(writer, shard, vocabulary)
            for number, example in enumerate(_examples(task, shard)):
                documents.add(example)
                report(number + 1, writer.documents, writer.tokens)
            documents.close()
    except OSError as error:
        raise write_error(shard.folder, error) from error
    except UserError as error:
        raise UserError(f"{shard.task}, split '{shard.split}': {error}") from error


def read_shard(task: seqio.Task, split: str, index: int, num_shards: int) -> tf.data.Dataset:
    """The examples of one shard of a split, in a fixed order."""
    return task.get_dataset(
        sequence_length=None,
        split=split,
        use_cached=False,
        shuffle=False,
        shard_info=seqio.ShardInfo(index, num_shards),
        trim_output_features=False,
        try_in_mem_cache=False,
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

    def __init__(self, writer: ShardWriter, shard: Shard, vocabulary: Vocabulary):
        self.writer, self.shard = writer, shard
        self.size, self.end = vocabulary.size, vocabulary.end_id
        self.is_text = not isinstance(vocabulary, ByteVocabulary)
        self.number = 0
        self._begin()

    def _begin(self):
        self.num_bytes, self.last_token = 0, None
        self.continues = self.is_invalid = False

    def add(self, example: Mapping[str, Any]):
        """Adds an example: a document or a piece of one."""
        tokens, text = example["targets"], example["targets_pretokenized"]
        self.num_bytes += len(text)
        if self.num_bytes and len(tokens):
            self._check_tokens(tokens)
            self.last_token = int(tokens[-1])
        if self.num_bytes:
            self.writer.add(tokens, text)
        self.is_invalid |= self.is_text and not _is_utf8(text)
        self.continues = bool(example.get("continues", False))
        if not self.continues:
            self._end(example)

    def close(self):
        """Checks that the last document is complete."""
        if self.continues:
            raise UserError(
                "the last example of a shard has 'continues' set, but no example follows it"
            )

    def _end(self, example: Mapping[str, Any]):
        shard = self.shard
        name = example.get("name", f"{shard.store_split}-{shard.index}-{self.number}")
        if isinstance(name, bytes):
            name = name.decode("utf-8", "surrogateescape")
        if self.num_bytes:
            if self.last_token != self.end:
                self.writer.add(np.array([self.end]), b"")
            self.writer.end_document(str(name), invalid_utf8=self.is_invalid)
        else:
            self.writer.empty += 1
        self.number += 1
        self._begin()

    def _check_tokens(self, tokens: Integer[np.ndarray, " length"]):
        if tokens.min() < 0 or tokens.max() >= self.size:
            raise UserError(
                f"an example has tokens from {tokens.min()} to {tokens.max()}, but its vocabulary "
                f"has {self.size}: give the output feature 'targets' the vocabulary of its tokens"
            )


def _examples(task: seqio.Task, shard: Shard) -> Iterator[Mapping[str, Any]]:
    try:
        dataset = read_shard(task, shard.split, shard.index, shard.num_shards)
        for number, example in enumerate(dataset.as_numpy_iterator()):
            if number == 0:  # TensorFlow resets it when it makes a dataset from a generator
                keep_freed_memory(of_all_threads=True)
            yield example
    except tf.errors.OpError as error:
        raise UserError(_cause(error)) from error


def _cause(error: tf.errors.OpError) -> str:
    """TensorFlow's error in one line, or the message of the UserError that caused it."""
    if ours := re.search(r"UserError: (.+)", error.message):
        return ours[1]
    line = re.sub(r"^{{.*?}} ", "", error.message).splitlines()[0].partition(" [Op:")[0]
    return f"{line} ({type(error).__name__}): fix its source or its preprocessors"


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
