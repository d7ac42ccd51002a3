"""Reads batches in a background thread, while the devices compute."""

import contextlib
from collections.abc import Callable, Iterator

import grain

from block_recurrent.data.lanes import Batch, LanePosition, Lanes

BUFFER_SIZE = 4  # batches read ahead of the current step


@contextlib.contextmanager
def prefetch(
    lanes: Lanes,
    position: LanePosition,
    rows: slice = slice(None),
    put: Callable[[Batch], Batch] = lambda batch: batch,
) -> Iterator[Iterator[tuple[Batch, LanePosition]]]:
    """Batches from `position` on, each with the position after it, read ahead by a thread::

        with prefetch(lanes, position, put=layout.put) as batches:
            batch, position = next(batches)

    The position belongs to the batch that it comes with, however many batches have been read ahead.
    `next` raises the reader's errors, such as `UserError`.

    Args:
      lanes: to read from.
      position: where to begin.
      rows: of the global batch; see `Lanes.read`.
      put: is applied to each batch in the background thread. Copying a batch to the devices there
        saves the main thread that time.
    """
    reader = grain.experimental.ThreadPrefetchIterDataset(
        _LanesDataset(lanes, position, rows, put), prefetch_buffer_size=BUFFER_SIZE
    )
    batches = iter(reader)
    try:
        yield batches
    finally:
        batches.close()


class _LanesDataset(grain.IterDataset):
    """The lanes as a grain dataset."""

    def __init__(
        self,
        lanes: Lanes,
        position: LanePosition,
        rows: slice,
        put: Callable[[Batch], Batch],
    ):
        super().__init__()
        self.lanes, self.position, self.rows, self.put = lanes, position, rows, put

    def __iter__(self) -> "_LanesIterator":
        return _LanesIterator(self)


class _LanesIterator(grain.DatasetIterator):
    def __init__(self, dataset: _LanesDataset):
        super().__init__()
        self.dataset, self.position = dataset, dataset.position

    def __next__(self) -> tuple[Batch, LanePosition]:
        lanes, rows = self.dataset.lanes, self.dataset.rows
        if lanes.exhausted(self.position):
            raise StopIteration
        batch, self.position = lanes.read(self.position, rows)
        return self.dataset.put(batch), self.position

    def get_state(self) -> dict:
        return self.position._asdict()

    def set_state(self, state: dict):
        self.position = LanePosition(**state)
