"""Reads batches in a background thread while the devices compute."""

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
    """Iterates over batches from `position` on, which a background thread reads ahead::

        with prefetch(lanes, position, put=layout.put) as batches:
            batch, position = next(batches)

    Each batch comes with the position after it, which does not depend on the number of batches read
    ahead. `next` raises the errors of the background thread, such as `UserError`.

    Args:
      lanes: the lanes to read from.
      position: the position of the first batch.
      rows: rows of the global batch; see `Lanes.read`.
      put: function that is applied to each batch in the background thread, such as copying it to
        the devices.
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
