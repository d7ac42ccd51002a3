"""How far the shards of a store are, counted in all processes together."""

import multiprocessing
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int64

from block_recurrent.console.lossy import NEGLIGIBLE_LOSS
from block_recurrent.data.prepare.lost_text import check_lost_text
from block_recurrent.data.prepare.store_writer import LOST_COUNTS, Shard
from block_recurrent.data.store_format import share_lost

# Of a shard: how much of its source has been read, in the unit of `Source.size`; what has been
# written; and 1 if it is finished.
COLUMNS = ("read", "documents", "tokens", *LOST_COUNTS, "finished")
READ, FINISHED = COLUMNS.index("read"), COLUMNS.index("finished")
ENOUGH_COMPARED = 2**20  # bytes of text, from which the share that is lost is extrapolated


class Counters:
    """Counts per shard, in memory that is shared by all processes."""

    def __init__(self, num_shards: int):
        self._memory = multiprocessing.RawArray("q", len(COLUMNS) * num_shards)

    @property
    def numbers(self) -> Int64[np.ndarray, "shards columns"]:
        """One row per shard, with `COLUMNS`."""
        return np.frombuffer(self._memory, np.int64).reshape(-1, len(COLUMNS))


class StoreProgress:
    """What is known while shards are written.

    Args:
      shards: all shards of the store. Those that are finished now do not count as progress.
      sizes: how much must be read for each of them; None: not known.
      allow_lossy: whether text may be lost.
      show: shows numbers of documents and tokens, and the share of the work that is done.

    Attributes:
      counters: which the processes update.
      missing: the shards that are not finished, with their rows in the counters.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        sizes: Sequence[int | None],
        allow_lossy: bool,
        show: Callable[[int, int, float], None],
    ):
        self.counters, self.allow_lossy, self.show = Counters(len(shards)), allow_lossy, show
        self.missing = [(row, shard) for row, shard in enumerate(shards) if not shard.is_finished]
        unknown = None in sizes
        self._sizes = np.ones(len(shards)) if unknown else np.maximum(sizes, 1)
        self._read_of = np.zeros(len(shards)) if unknown else self._sizes
        self._missing_size = self._sizes[[row for row, _ in self.missing]].sum()
        tasks = np.array([shard.task for shard in shards])
        self._rows = {task: np.flatnonzero(tasks == task) for task in dict.fromkeys(tasks.tolist())}

    def update(self):
        """Shows the progress.

        Raises:
          UserError: it is certain that a vocabulary loses more text than is allowed.
        """
        numbers = self.counters.numbers
        partly = np.minimum(numbers[:, READ], self._read_of)
        done = np.where(numbers[:, FINISHED], self._sizes, partly)
        _, documents, tokens, *_ = numbers.sum(0).tolist()
        self.show(documents, tokens, float(done.sum() / self._missing_size))
        if not self.allow_lossy:
            for task, rows in self._rows.items():
                share = done[rows].sum() / self._sizes[rows].sum()
                counts = dict(zip(COLUMNS, numbers[rows].sum(0).tolist(), strict=True))
                self._check_lost_text(task, counts, share)

    def _check_lost_text(self, task: str, counts: dict[str, int], share: float):
        """Refuses a vocabulary once it has lost enough, even if the rest of the text is kept."""
        lost = max(share_lost(counts) or 0.0, counts["unknown"] / max(counts["tokens"], 1))
        if counts["compared_bytes"] >= ENOUGH_COMPARED and lost * share > NEGLIGIBLE_LOSS:
            check_lost_text(task, counts, allowed=False)
