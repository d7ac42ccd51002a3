"""The plan of a token store: its sources, vocabulary and shards."""

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from block_recurrent.config.data_options import PrepareConfig
from block_recurrent.data.prepare.source import Source, Sources
from block_recurrent.data.prepare.store_writer import Shard
from block_recurrent.data.store_format import FORMAT, VOCABULARY_FILES
from block_recurrent.data.vocabulary_storage import describe_vocabulary


class Plan(NamedTuple):
    """What to write, and everything that determines its content.

    Attributes:
      name: name of the Task or Mixture.
      tasks: the source of the Task, or those of the Tasks of the Mixture, by name.
      weights: weights of the Tasks in the Mixture, with sum 1; None for a single Task.
      descriptions: everything that determines the examples of each Task, as JSON values.
      module: hash of the source code of prepare.module; None without one.
    """

    name: str
    tasks: Mapping[str, Source]
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
        store = self.store_of(task, folder)
        numbers = self.descriptions[task]["shards"]
        return [
            Shard(task, {split: store_split(split) for split in splits}, index, number, store)
            for splits in self.tasks[task].passes
            for number in [numbers[splits[0]]]
            for index in range(number)
        ]


def make_plan(config: PrepareConfig, sources: Sources) -> Plan:
    """Makes the plan for a store, without reading it all.

    Raises:
      UserError: a source is missing or damaged.
    """
    descriptions = {
        name: _describe(source, config.num_shards) for name, source in sources.tasks.items()
    }
    return Plan(*sources, descriptions, _hash_module(config.module))


def store_split(split: str) -> str:
    """The name that a split of a Task has in a store."""
    return "held_out" if split == "validation" else split


def _describe(source: Source, num_shards: int) -> dict[str, Any]:
    splits = [split for splits in source.passes for split in splits]
    vocabulary = describe_vocabulary(source.vocabulary)
    if source.vocabulary.kind in VOCABULARY_FILES:
        vocabulary["model"] = hashlib.sha256(source.vocabulary.file.content).hexdigest()
    described = source.describe()
    shards = {split: source.num_shards(split, num_shards) for split in splits}
    return {"vocabulary": vocabulary, "source": described, "shards": shards}


def _hash_module(name: str | None) -> str | None:
    """The hash of a module's source code, which determines what its Tasks do."""
    if name is None:
        return None
    path = importlib.import_module(name).__file__
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
