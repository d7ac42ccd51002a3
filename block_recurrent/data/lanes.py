"""Lanes: row i of every batch continues the document that row i held in the batch before."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from block_recurrent.data.documents import Documents
from block_recurrent.errors import UserError

NONE = -1  # as a document: the row holds none


class Batch(NamedTuple):
    """One segment of every lane.

    Attributes:
      inputs: the tokens shifted by one, after a 0 at a document's start; 0 on padding.
      targets: what to predict at each place; 0 on padding.
      weights: of the losses, 0 on padding, 1 elsewhere.
      starts: where a block of W tokens begins a new document.
    """

    inputs: Int32[np.ndarray, "B T"]
    targets: Int32[np.ndarray, "B T"]
    weights: Float32[np.ndarray, "B T"]
    starts: Bool[np.ndarray, "B N"]


class LanePosition(NamedTuple):
    """Where the lanes stand before a batch: all there is to resume from.

    Attributes:
      epoch: passes over the documents begun, less one.
      next_document: how many documents of the epoch's order rows have taken.
      document: the index that each row is in the middle of, or −1.
      offset: tokens of it that the row has read.
    """

    epoch: Int64[np.ndarray, ""]
    next_document: Int64[np.ndarray, ""]
    document: Int64[np.ndarray, " B"]
    offset: Int64[np.ndarray, " B"]


class Span(NamedTuple):
    """A piece of a document and its place in a batch."""

    row: int
    place: int
    document: int
    offset: int
    count: int


class Lanes:
    """Lays documents out in rows of segments.

    Rows take the next document of one queue for all as they finish theirs. A document starts at a
    block boundary, the rest of its last block is padding, and every token of it, the first and the
    end included, is a target exactly once. Both the queue and the batch depend on nothing but the
    seed and the position.

    Args:
      documents: those without tokens are left out.
      batch_size: rows B of the global batch.
      segment_length: tokens T of a row in one batch.
      window_length: tokens W of a block.
      seed: of the order of documents, another one in every epoch.
      shuffle: False orders the longest first, so that in evaluation the rows end together.
      repeat: False reads the documents once; rows then run out of them, and are padding.

    Raises:
      UserError: no documents, or lengths that do not fit each other.
    """

    def __init__(
        self,
        documents: Documents,
        batch_size: int,
        segment_length: int,
        window_length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        repeat: bool = True,
    ):
        _check_lengths(batch_size, segment_length, window_length, seed)
        self.documents, self.batch_size = documents, batch_size
        self.segment_length, self.window_length = segment_length, window_length
        self.seed, self.shuffle, self.repeat = seed, shuffle, repeat
        self._lengths = np.asarray(documents.lengths, np.int64)
        self._candidates = np.flatnonzero(self._lengths > 0)
        if not len(self._candidates):
            raise UserError("the corpus has no documents: name another by data.path or data.glob")
        self._epoch_order = NONE, self._candidates  # the order last asked for, and its epoch

    def initial_position(self) -> LanePosition:
        """Before the first batch."""
        return LanePosition(
            epoch=np.zeros((), np.int64),
            next_document=np.zeros((), np.int64),
            document=np.full(self.batch_size, NONE, np.int64),
            offset=np.zeros(self.batch_size, np.int64),
        )

    def exhausted(self, position: LanePosition) -> bool:
        """Whether nothing is left to read; never so with `repeat`."""
        all_taken = int(position.next_document) == len(self._candidates)
        return not self.repeat and all_taken and bool(np.all(np.asarray(position.document) == NONE))

    def read(self, position: LanePosition) -> tuple[Batch, LanePosition]:
        """The batch at `position`, which stays as it is, and the position after it.

        Raises:
          UserError: the position belongs to other lanes, or a file cannot be read any more.
        """
        spans, after = self._plan(position)
        shape = self.batch_size, self.segment_length
        batch = Batch(
            inputs=np.zeros(shape, np.int32),
            targets=np.zeros(shape, np.int32),
            weights=np.zeros(shape, np.float32),
            starts=np.zeros((shape[0], shape[1] // self.window_length), bool),
        )
        for span in spans:
            self._copy(span, batch)
        return batch, after

    def _plan(self, position: LanePosition) -> tuple[list[Span], LanePosition]:
        """What to copy where: known from lengths alone, without reading a token."""
        self._check(position)
        queue = _Queue(self, int(position.epoch), int(position.next_document))
        documents = np.array(position.document, np.int64)
        offsets = np.array(position.offset, np.int64)
        spans = []
        for row in range(self.batch_size):
            document, offset, place = int(documents[row]), int(offsets[row]), 0
            while place < self.segment_length:
                if document == NONE:
                    document, offset = queue.take(), 0
                    if document == NONE:
                        break
                left = int(self._lengths[document]) - offset
                count = min(left, self.segment_length - place)
                spans.append(Span(row, place, document, offset, count))
                place += -(-count // self.window_length) * self.window_length
                document, offset = (NONE, 0) if count == left else (document, offset + count)
            documents[row], offsets[row] = document, offset
        epoch, next_document = np.array(queue.epoch, np.int64), np.array(queue.taken, np.int64)
        return spans, LanePosition(epoch, next_document, documents, offsets)

    def _copy(self, span: Span, batch: Batch):
        """Writes one piece of a document into the batch."""
        row, place, document, offset, count = span
        # Within a document the first input is the token before the piece.
        before = min(offset, 1)
        tokens = self.documents.tokens(document, offset - before, offset + count)
        size = self.documents.vocabulary.size
        if tokens.max() >= size or tokens.min() < 0:
            raise UserError(
                f"{self.documents.names[document]} holds the token {tokens.max()} or a negative "
                f"one, but its vocabulary has {size}: prepare the corpus again, with its own"
            )
        places = slice(place, place + count)
        batch.inputs[row, place + 1 - before : place + count] = tokens[:-1]
        batch.targets[row, places] = tokens[before:]
        batch.weights[row, places] = 1
        if offset == 0:
            batch.starts[row, place // self.window_length] = True

    def _order(self, epoch: int) -> np.ndarray:
        """The documents in the order of an epoch."""
        if self._epoch_order[0] != epoch:
            if self.shuffle:
                # Raw bits, because NumPy promises to keep these, but no Generator, as they are.
                bits = np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))
                keys = bits.random_raw(len(self._candidates))
            else:
                keys = -self._lengths[self._candidates]
            self._epoch_order = epoch, self._candidates[np.argsort(keys, kind="stable")]
        return self._epoch_order[1]

    def _check(self, position: LanePosition):
        """Refuses a position of another batch size or another corpus, where that shows."""
        document, offset = np.asarray(position.document), np.asarray(position.offset)
        if len(document) != self.batch_size:
            raise UserError(
                f"the position in the data has {len(document)} rows, but the batch size is "
                f"{self.batch_size}: resume with the batch size of before, or start a new run"
            )
        fits = document.max() < len(self._lengths) and np.all(
            (document == NONE) | (offset < self._lengths[document])
        )
        if not fits or int(position.next_document) > len(self._candidates):
            raise UserError(
                "the position in the data lies outside the corpus, which is not the one of before: "
                "resume with that, or start a new run"
            )


class _Queue:
    """The documents that no row has taken yet, over the epochs."""

    def __init__(self, lanes: Lanes, epoch: int, taken: int):
        self.lanes, self.epoch, self.taken = lanes, epoch, taken

    def take(self) -> int:
        """The next document, or −1 where there is none."""
        order = self.lanes._order(self.epoch)
        if self.taken == len(order):
            if not self.lanes.repeat:
                return NONE
            self.epoch, self.taken = self.epoch + 1, 0
            order = self.lanes._order(self.epoch)
        self.taken += 1
        return int(order[self.taken - 1])


def _check_lengths(batch_size: int, segment_length: int, window_length: int, seed: int):
    for name, value, least in [
        ("batch_size", batch_size, 1),
        ("segment_length", segment_length, 1),
        ("window_length", window_length, 1),
        ("seed", seed, 0),
    ]:
        if value < least:
            raise UserError(f"{name} = {value} is too small: choose {least} or more")
    if segment_length % window_length:
        below = segment_length // window_length * window_length
        choices = [str(length) for length in (below, below + window_length) if length]
        raise UserError(
            f"segment_length = {segment_length} is not a multiple of window_length = "
            f"{window_length}: choose {' or '.join(choices)}"
        )
