"""A part of a token store that is written by itself."""

from pathlib import Path
from typing import NamedTuple


class Shard(NamedTuple):
    """What to write.

    Attributes:
      task: name of a registered Task.
      split: of the Task.
      store_split: what the store calls it.
      index: from 0.
      num_shards: of the split.
      folder: of the store.
    """

    task: str
    split: str
    store_split: str
    index: int
    num_shards: int
    folder: Path
