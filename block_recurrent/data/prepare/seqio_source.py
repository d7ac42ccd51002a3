"""seqio Tasks and Mixtures as sources of stores."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from jaxtyping import Integer

from block_recurrent.data.prepare.folder_source import FolderSource
from block_recurrent.data.prepare.seqio_vocabularies import from_seqio
from block_recurrent.data.prepare.source import Example, Sources
from block_recurrent.data.prepare.store_writer import Shard
from block_recurrent.data.store_format import NAME
from block_recurrent.errors import UserError, first_line
from block_recurrent.freed_memory import keep_freed_memory


def task_sources(found: seqio.Task | seqio.Mixture) -> Sources:
    """The sources of a Task, or of the Tasks of a Mixture.

    Raises:
      UserError: a Task does not produce documents, its data is missing, or the Tasks have different
        vocabularies.
    """
    tasks, weights = {found.name: found}, None
    if isinstance(found, seqio.Mixture):
        rates = {task: found.get_rate(task) for task in found.tasks}
        tasks = {task.name: task for task, rate in rates.items() if rate > 0}
        total = sum(rates.values())
        weights = {task.name: rate / total for task, rate in rates.items() if rate > 0}
    sources = {}
    for name, task in tasks.items():
        try:
            sources[name] = SeqioSource(task)
        except UserError as error:
            raise UserError(f"Task {name}: {error}") from error
    vocabularies = [source.vocabulary for source in sources.values()]
    if len({(each.name, each.end_id) for each in vocabularies}) > 1:
        raise UserError(
            f"the Tasks of {found.name} have different vocabularies: give them the same one"
        )
    return Sources(found.name, sources, weights)


class SeqioSource:
    """The examples of a seqio Task, as a `Source`.

    Raises:
      UserError: the Task does not produce documents, or its data is missing.
    """

    def __init__(self, task: seqio.Task):
        if isinstance(task.source, seqio.TfdsDataSource):
            _check_tfds(task.source)
        try:
            _check_names(task)
            _check_examples(task)
        except UserError:
            raise
        except Exception as error:  # from TensorFlow, seqio or the user's code
            raise _broken(error) from error
        self.task, self.skipped, self.done = task, 0, 0
        self.passes = tuple((split,) for split in task.splits)
        self.vocabulary = from_seqio(task.output_features["targets"].vocabulary)

    def describe(self) -> dict[str, Any]:
        source = self.task.source
        try:
            if isinstance(source, FolderSource):
                return source.describe()
            return {split: self._describe_split(split) for split in source.splits}
        except Exception as error:  # from TensorFlow, seqio or the user's code
            cause = error if isinstance(error, UserError) else _broken(error)
            raise UserError(f"Task {self.task.name}: {cause}") from error

    def num_shards(self, split: str, most: int) -> int:
        return max(1, min(most, len(self.task.source.list_shards(split))))

    def size(self, shard: Shard) -> int | None:
        (split,) = shard.splits
        number = self._num_examples(split)
        return None if number is None else -(-number // shard.num_shards)

    def begin(self, folder: Path):
        """Nothing has to be done."""

    def end(self, folder: Path):
        """Nothing has to be done."""

    def examples(self, shard: Shard) -> Iterator[Example]:
        (split,) = shard.splits
        try:
            dataset = read_shard(self.task, split, shard.index, shard.num_shards)
            for number, example in enumerate(dataset.as_numpy_iterator()):
                if number == 0:  # TensorFlow resets it when it makes a dataset from a generator
                    keep_freed_memory(of_all_threads=True)
                _check_tokens(example["targets"], self.vocabulary.size)
                self.done = number + 1
                yield _example(split, example)
        except tf.errors.OpError as error:
            raise UserError(_cause(error)) from error

    def _num_examples(self, split: str) -> int | None:
        number = self.task.source.num_input_examples(split)
        return None if number is None or math.isinf(number) else int(number)

    def _describe_split(self, split: str) -> dict[str, Any]:
        files = [_name_and_size(path) for path in self.task.source.list_shards(split)]
        digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
        return {"examples": self._num_examples(split), "files": digest}


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


def _example(split: str, example: Mapping[str, Any]) -> Example:
    name = example.get("name")
    if isinstance(name, bytes):
        name = name.decode("utf-8", "surrogateescape")
    name = None if name is None else str(name)
    text, tokens = example["targets_pretokenized"], example["targets"]
    return Example(split, name, text, bool(example.get("continues", False)), tokens)


def _check_tokens(tokens: Integer[np.ndarray, " length"], size: int):
    if len(tokens) and (tokens.min() < 0 or tokens.max() >= size):
        raise UserError(
            f"an example has tokens from {tokens.min()} to {tokens.max()}, but its vocabulary "
            f"has {size}: give the output feature 'targets' the vocabulary of its tokens"
        )


def _broken(error: Exception) -> UserError:
    return UserError(f"{first_line(error)}: fix its source or its preprocessors")


def _check_names(task: seqio.Task):
    """Checks the names of the Task, its splits and its output features."""
    splits = list(task.splits)
    for split in ("train", "validation"):
        if split not in splits:
            raise UserError(
                f"it has no split '{split}', only {', '.join(map(repr, splits))}: add the split "
                "to its source, for example seqio.TfdsDataSource(…, splits={'train': "
                "'train[:98%]', 'validation': 'train[98%:]'})"
            )
    if "held_out" in splits:
        raise UserError("its split 'held_out' has a store's name for 'validation': rename it")
    for name in (task.name, *splits):
        if not NAME.fullmatch(name):
            raise UserError(
                f"'{name}' cannot be the name of a file: use letters, digits, '_', '.' and '-'"
            )
    if task.name not in seqio.TaskRegistry.names():
        raise UserError("it is not registered: add it with seqio.TaskRegistry.add")
    if "targets" not in task.output_features:
        raise UserError("it has no output feature 'targets': give its tokens that name")


def _check_examples(task: seqio.Task):
    """Checks the features of the examples. TensorFlow knows them without producing an example."""
    examples = read_shard(task, "train", 0, 1).element_spec
    if examples.get("targets_pretokenized") != tf.TensorSpec((), tf.string):
        raise UserError(
            "its examples have no 'targets_pretokenized', the text before tokenization: tokenize "
            "it with seqio.preprocessors.tokenize, which keeps the text"
        )
    if examples["targets"].shape.rank != 1:
        raise UserError("its 'targets' do not have rank 1: make each a sequence of tokens")


def _check_tfds(source: seqio.TfdsDataSource):
    loader = source.tfds_dataset
    for name, folder in {loader.get_split_params(split) for split in loader.tfds_splits or [None]}:
        try:
            is_there = tfds.builder(name, data_dir=folder).is_prepared()
        except (ValueError, AssertionError):  # no such dataset, or no such version
            is_there = False
        if not is_there:
            place = folder or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
            dataset = name.removesuffix(":*.*.*")
            raise UserError(
                f"the TFDS dataset {dataset} is not in {place}: build it (tfds build {dataset} "
                f"--data_dir={place}), or set prepare.tfds_data_dir to its folder"
            )


def _name_and_size(path: str) -> list[Any]:
    size = tf.io.gfile.stat(path).length if tf.io.gfile.exists(path) else None
    return [Path(path).name, size]


def _cause(error: tf.errors.OpError) -> str:
    """TensorFlow's error in one line, or the message of the UserError that caused it."""
    if ours := re.search(r"UserError: (.+)", error.message):
        return ours[1]
    line = re.sub(r"^{{.*?}} ", "", error.message).splitlines()[0].partition(" [Op:")[0]
    return f"{line} ({type(error).__name__}): fix its source or its preprocessors"
