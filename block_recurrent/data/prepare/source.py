"""Where the documents of a token store come from: files, or seqio Tasks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

from block_recurrent.config.data_options import DataConfig, PrepareConfig
from block_recurrent.data.prepare.quiet_tensorflow import import_tensorflow
from block_recurrent.data.prepare.store_writer import Shard
from block_recurrent.data.vocabularies import Vocabulary
from block_recurrent.errors import UserError

FOLDER_TASKS = ("arxiv", "github", "text_files")


class Example(NamedTuple):
    """A document, or a piece of one.

    Attributes:
      split: of the source.
      name: of the document; None: it has none.
      text: the bytes that the tokens encode.
      continues: whether the next example of this split continues the document.
      tokens: without an end token, or with it after the last piece.
    """

    split: str
    name: str | None
    text: bytes
    continues: bool
    tokens: Integer[np.ndarray, " length"]


@runtime_checkable
class Source(Protocol):
    """The documents of a store.

    Attributes:
      passes: the splits, grouped into those that are written in one pass over the source.
      vocabulary: of the tokens.
      skipped: rows left out so far of the shard that is being read.
      done: how much of that shard has been read, in the unit of `size`.
    """

    passes: tuple[tuple[str, ...], ...]
    vocabulary: Vocabulary
    skipped: int
    done: int

    def describe(self) -> dict[str, Any]:
        """Everything that determines the examples, as JSON values, without paths."""

    def num_shards(self, split: str, most: int) -> int:
        """Into how many shards a split is divided, at most `most`."""

    def size(self, shard: Shard) -> int | None:
        """About how much must be read for a shard, in any unit; None if that is not known.

        Called after `begin`.
        """

    def begin(self, folder: Path):
        """Does what must be done once, before any shard of the store in this folder is written."""

    def end(self, folder: Path):
        """Removes what `begin` has left in the folder."""

    def examples(self, shard: Shard) -> Iterator[Example]:
        """The examples of a shard, in a fixed order."""


class Sources(NamedTuple):
    """What prepare_data makes a store of.

    Attributes:
      name: of the Task or Mixture.
      tasks: its sources, by the names of their Tasks.
      weights: of the Tasks in the Mixture, with sum 1; None for a single Task.
    """

    name: str
    tasks: Mapping[str, Source]
    weights: Mapping[str, float] | None


def reads_files(prepare: PrepareConfig) -> bool:
    """Whether the documents are in the files at data.path, and not those of a seqio Task."""
    return prepare.task in FOLDER_TASKS and prepare.tfds is None


def open_sources(prepare: PrepareConfig, data: DataConfig) -> Sources:
    """The sources that the configuration names. Imports TensorFlow only if they need it.

    Raises:
      UserError: there is no such Task, it is no source of documents, or TensorFlow is needed and
        not installed.
    """
    if reads_files(prepare):
        if data.path is None:
            raise UserError(
                f"prepare.task = '{prepare.task}' needs a source: set data.path to a file or "
                "folder, or prepare.tfds to a TFDS dataset"
            )
        from block_recurrent.data.prepare.text_source import open_text

        return Sources(prepare.task, {prepare.task: open_text(prepare, data)}, None)
    import_tensorflow()
    from block_recurrent.data.prepare.seqio_source import task_sources
    from block_recurrent.data.prepare.tasks import find_task, register_tasks

    register_tasks(prepare, data)
    return task_sources(find_task(prepare))
