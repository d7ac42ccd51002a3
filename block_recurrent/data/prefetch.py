"""Reading batches in the background, while the devices are at work."""

import contextlib
from collections.abc import Iterator

import grain

from block_recurrent.data.lanes import Batch, LanePosition, Lanes

AHEAD = 4  # batches that wait, read, for their step


@contextlib.contextmanager
def prefetch(
    lanes: Lanes, position: LanePosition, rows: slice = slice(None)
) -> Iterator[Iterator[tuple[Batch, LanePosition]]]:
    """Batches from `position` on, each with the position after it, read ahead by a thread::

        with prefetch(lanes, position) as batches:
            batch, position = next(batches)

    The position that comes with a batch says where *that* one ends, whatever has been read ahead.
    An error of the reader, a `UserError` for instance, is raised by `next`.
    """
    reader = grain.experimental.ThreadPrefetchIterDataset(
        _Segments(lanes, position, rows), prefetch_buffer_size=AHEAD
    )
    batches = iter(reader)
    try:
        yield batches
    finally:
        batches.close()


class _Segments(grain.IterDataset):
    """The lanes as grain's datasets are."""

    def __init__(self, lanes: Lanes, position: LanePosition, rows: slice):
        super().__init__()
        self.lanes, self.position, self.rows = lanes, position, rows

    def __iter__(self) -> "_SegmentsIterator":
        return _SegmentsIterator(self)


class _SegmentsIterator(grain.DatasetIterator):
    def __init__(self, segments: _Segments):
        super().__init__()
        self.lanes, self.position, self.rows = segments.lanes, segments.position, segments.rows

    def __next__(self) -> tuple[Batch, LanePosition]:
        if self.lanes.exhausted(self.position):
            raise StopIteration
        batch, self.position = self.lanes.read(self.position, self.rows)
        return batch, self.position

    def get_state(self) -> dict:
        return self.position._asdict()

    def set_state(self, state: dict):
        self.position = LanePosition(**state)
