"""The plan of a token store: Tasks, vocabularies, sources and shards."""

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
from block_recurrent.data.prepare.seqio_vocabularies import from_seqio
from block_recurrent.data.prepare.store_writer import Shard
from block_recurrent.data.prepare.write_shard import read_shard
from block_recurrent.data.store_format import FORMAT, NAME, VOCABULARY_FILES
from block_recurrent.data.vocabulary_storage import describe_vocabulary
from block_recurrent.errors import UserError, first_line


class Plan(NamedTuple):
    """What to write, and everything that determines its content.

    Attributes:
      name: name of the Task or Mixture.
      tasks: the Task, or the Tasks of the Mixture, by name.
      weights: weights of the Tasks in the Mixture, with sum 1; None for a single Task.
      descriptions: everything that determines the examples of each Task, as JSON values.
      module: hash of the source code of prepare.module; None without one.
    """

    name: str
    tasks: Mapping[str, seqio.Task]
    weights: Mapping[str, float] | None
    descriptions: Mapping[str, Mapping[str, Any]]
    module: str | None

    @property
    def content(self) -> dict[str, Any]:
        """The content of plan.json: everything that determines the store, but no paths or times."""
        own = {"format": FORMAT, "name": self.name, "weights": self.weights, "module": self.module}
        return own | {"tasks": self.descriptions}

    def store_of(self, task: str, folder: Path) -> Path:
        """The folder of a Task's store: for a Mixture, a subfolder with the Task's name."""
        return folder if self.weights is None else folder / task

    def shards_of(self, task: str, folder: Path) -> list[Shard]:
        """All shards of a Task."""
        return [
            Shard(task, split, store_split(split), index, number, self.store_of(task, folder))
            for split, number in self.descriptions[task]["shards"].items()
            for index in range(number)
        ]


def make_plan(config: PrepareConfig, found: seqio.Task | seqio.Mixture) -> Plan:
    """Makes the plan for a Task or Mixture from its sources, without reading an example.

    Raises:
      UserError: a source is missing, or a Task does not produce documents.
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
        raise UserError(
            f"the Tasks of {found.name} have different vocabularies: give them the same one"
        )
    return Plan(found.name, tasks, weights, descriptions, _hash_module(config.module))


def store_split(split: str) -> str:
    """The name that a split of a Task has in a store."""
    return "held_out" if split == "validation" else split


def describe_source(source: seqio.DataSource) -> dict[str, Any]:
    """Everything that identifies the data of a source, without reading it."""
    if isinstance(source, FolderSource):
        return source.describe()
    splits = {}
    for split in source.splits:
        files = [_name_and_size(path) for path in source.list_shards(split)]
        digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
        splits[split] = {"examples": num_examples(source, split), "files": digest}
    return splits


def num_examples(source: seqio.DataSource, split: str) -> int | None:
    """Examples in a split; None if the source does not know."""
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
    except Exception as error:  # from TensorFlow, seqio or the user's code
        raise UserError(f"{first_line(error)}: fix its source or its preprocessors") from error
    vocabulary = from_seqio(task.output_features["targets"].vocabulary)
    description = describe_vocabulary(vocabulary)
    if vocabulary.kind in VOCABULARY_FILES:
        description["model"] = hashlib.sha256(vocabulary.file.content).hexdigest()
    return {"vocabulary": description, "source": source, "shards": shards}


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


def _hash_module(name: str | None) -> str | None:
    """The hash of a module's source code, which determines what its Tasks do."""
    if name is None:
        return None
    path = importlib.import_module(name).__file__
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _name_and_size(path: str) -> list[Any]:
    size = tf.io.gfile.stat(path).length if tf.io.gfile.exists(path) else None
    return [Path(path).name, size]
