"""Reading batches in the background, while the devices are at work."""

import contextlib
from collections.abc import Callable, Iterator

import grain

from block_recurrent.data.lanes import Batch, LanePosition, Lanes

AHEAD = 4  # batches that wait, read, for their step


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

    The position that comes with a batch says where *that* one ends, whatever has been read ahead.
    An error of the reader, a `UserError` for instance, is raised by `next`.

    Args:
      lanes: what is read.
      position: where to begin.
      rows: of each batch.
      put: is done to a batch by that thread; to bring it to the devices takes time on the host.
    """
    reader = grain.experimental.ThreadPrefetchIterDataset(
        _Segments(lanes, position, rows, put), prefetch_buffer_size=AHEAD
    )
    batches = iter(reader)
    try:
        yield batches
    finally:
        batches.close()


class _Segments(grain.IterDataset):
    """The lanes as grain's datasets are."""

    def __init__(
        self,
        lanes: Lanes,
        position: LanePosition,
        rows: slice,
        put: Callable[[Batch], Batch],
    ):
        super().__init__()
        self.lanes, self.position, self.rows, self.put = lanes, position, rows, put

    def __iter__(self) -> "_SegmentsIterator":
        return _SegmentsIterator(self)


class _SegmentsIterator(grain.DatasetIterator):
    def __init__(self, segments: _Segments):
        super().__init__()
        self.segments, self.position = segments, segments.position

    def __next__(self) -> tuple[Batch, LanePosition]:
        lanes, rows = self.segments.lanes, self.segments.rows
        if lanes.exhausted(self.position):
            raise StopIteration
        batch, self.position = lanes.read(self.position, rows)
        return self.segments.put(batch), self.position

    def get_state(self) -> dict:
        return self.position._asdict()

    def set_state(self, state: dict):
        self.position = LanePosition(**state)
