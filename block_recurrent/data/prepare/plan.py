"""What decides the content of a token store: the Tasks, their vocabularies and their sources."""

import hashlib
import importlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from block_recurrent.config.options import PrepareConfig
from block_recurrent.data.prepare.folder_source import FolderSource
from block_recurrent.data.prepare.seqio_vocabularies import describe_vocabulary
from block_recurrent.data.prepare.store_writer import Shard
from block_recurrent.data.prepare.write_shard import read_shard
from block_recurrent.data.store_format import FORMAT, NAME
from block_recurrent.errors import UserError, first_line


class Plan(NamedTuple):
    """What to prepare.

    Attributes:
      name: of the Task or Mixture.
      tasks: one, or those of the Mixture.
      weights: of each in the Mixture, their sum 1; None where there is none.
      descriptions: of each Task, all that decides what it gives, as JSON holds it.
      module: digest of the source of the user's module, if there is one.
    """

    name: str
    tasks: Mapping[str, seqio.Task]
    weights: Mapping[str, float] | None
    descriptions: Mapping[str, Mapping[str, Any]]
    module: str | None

    @property
    def content(self) -> dict[str, Any]:
        """All that decides the store, and neither paths nor times."""
        own = {"format": FORMAT, "name": self.name, "weights": self.weights, "module": self.module}
        return own | {"tasks": self.descriptions}

    def store_of(self, task: str, folder: Path) -> Path:
        """A Mixture has a store for each Task, in a folder of its name."""
        return folder if self.weights is None else folder / task

    def shards_of(self, task: str, folder: Path) -> list[Shard]:
        """All that there is to write of a Task."""
        return [
            Shard(task, split, store_split(split), index, number, self.store_of(task, folder))
            for split, number in self.descriptions[task]["shards"].items()
            for index in range(number)
        ]


def make_plan(config: PrepareConfig, found: seqio.Task | seqio.Mixture) -> Plan:
    """Looks at the sources of the Task, or of those of the Mixture; reads no example.

    Raises:
      UserError: something is missing, or a Task gives no documents.
    """
    tasks, weights, descriptions = {found.name: found}, None, {}
    if isinstance(found, seqio.Mixture):
        rates = {task: found.get_rate(task) for task in found.tasks}
        tasks = {task.name: task for task, rate in rates.items() if rate > 0}
        total = sum(rates.values())
        weights = {task.name: rate / total for task, rate in rates.items() if rate > 0}
    for name, task in tasks.items():
        try:
            descriptions[name] = _describe(task, config.num_shards)
        except UserError as error:
            raise UserError(f"Task {name}: {error}") from error
    if len({json.dumps(one["vocabulary"]) for one in descriptions.values()}) > 1:
        raise UserError(f"the Tasks of {found.name} have several vocabularies: give them the same")
    return Plan(found.name, tasks, weights, descriptions, _digest_of_module(config.module))


def store_split(split: str) -> str:
    """What a store calls a split of a Task."""
    return "held_out" if split == "validation" else split


def describe_source(source: seqio.DataSource) -> dict[str, Any]:
    """All that tells the source from another, as far as one can know without reading it."""
    if isinstance(source, FolderSource):
        return source.describe()
    splits = {}
    for split in source.splits:
        files = [_name_and_size(path) for path in source.list_shards(split)]
        digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
        splits[split] = {"examples": num_examples(source, split), "files": digest}
    return splits


def num_examples(source: seqio.DataSource, split: str) -> int | None:
    """None if the source does not know."""
    number = source.num_input_examples(split)
    return None if number is None or math.isinf(number) else int(number)


def _describe(task: seqio.Task, num_shards: int) -> dict[str, Any]:
    if isinstance(task.source, seqio.TfdsDataSource):
        _check_tfds(task.source)
    try:
        _check_names(task)
        _check_examples(task)
        source = describe_source(task.source)
        shards = {
            split: max(1, min(num_shards, len(task.source.list_shards(split))))
            for split in task.splits
        }
    except UserError:
        raise
    except Exception as error:  # of TensorFlow, of seqio, or of the user's code
        raise UserError(f"{first_line(error)}: mend its source or its preprocessors") from error
    vocabulary = task.output_features["targets"].vocabulary
    description = describe_vocabulary(vocabulary)
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        description["model"] = hashlib.sha256(vocabulary.sp_model).hexdigest()
    return {"vocabulary": description, "source": source, "shards": shards}


def _check_names(task: seqio.Task):
    """Of the Task, of its splits and of its output features."""
    splits = list(task.splits)
    for split in ("train", "validation"):
        if split not in splits:
            raise UserError(
                f"it has no split '{split}', but {', '.join(map(repr, splits))}: have its source "
                "make one, for example seqio.TfdsDataSource(…, splits={'train': 'train[:98%]', "
                "'validation': 'train[98%:]'})"
            )
    if "held_out" in splits:
        raise UserError("its split 'held_out' has the name of 'validation' in a store: rename it")
    for name in (task.name, *splits):
        if not NAME.fullmatch(name):
            raise UserError(f"'{name}' is no name of files: use letters, digits, '_', '.' and '-'")
    if task.name not in seqio.TaskRegistry.names():
        raise UserError("it is not registered: add it by seqio.TaskRegistry.add")
    if "targets" not in task.output_features:
        raise UserError("it has no output feature 'targets', the tokens: name it so")


def _check_examples(task: seqio.Task):
    """Of what they consist, as far as TensorFlow knows without making one."""
    examples = read_shard(task, "train", 0, 1).element_spec
    if examples.get("targets_pretokenized") != tf.TensorSpec((), tf.string):
        raise UserError(
            "its examples have no 'targets_pretokenized', the text behind the tokens: make these "
            "with seqio.preprocessors.tokenize, which keeps it"
        )
    if examples["targets"].shape.rank != 1:
        raise UserError("its 'targets' are not of rank 1: make each a sequence of tokens")


def _check_tfds(source: seqio.TfdsDataSource):
    loader = source.tfds_dataset
    for name, folder in {loader.get_split_params(split) for split in loader.tfds_splits or [None]}:
        try:
            is_there = tfds.builder(name, data_dir=folder).is_prepared()
        except (ValueError, AssertionError):  # no such dataset, or no such version of it
            is_there = False
        if not is_there:
            place = folder or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
            dataset = name.removesuffix(":*.*.*")
            raise UserError(
                f"the TFDS dataset {dataset} is not in {place}: have TFDS make it (tfds build "
                f"{dataset} --data_dir={place}), or name its folder by prepare.tfds_data_dir"
            )


def _digest_of_module(name: str | None) -> str | None:
    """Of its source, which decides what its Tasks do."""
    if name is None:
        return None
    path = importlib.import_module(name).__file__
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _name_and_size(path: str) -> list[Any]:
    size = tf.io.gfile.stat(path).length if tf.io.gfile.exists(path) else None
    return [Path(path).name, size]
