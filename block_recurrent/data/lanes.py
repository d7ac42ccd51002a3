"""Lanes: document streams that take turns in the rows of the batches.

With as many lanes as rows, row i of a batch continues row i of the batch before. With P times as
many, it continues row i of P batches before, and a model that trains on the batches meets P times
as many documents before it comes back to one of them.
"""

from typing import NamedTuple

import numpy as np
from grain.experimental import index_shuffle
from jaxtyping import Bool, Float32, Int32, Int64

from block_recurrent.config.options import check_segment
from block_recurrent.data.documents import Documents
from block_recurrent.data.mixture import Mixture
from block_recurrent.errors import UserError

NO_DOCUMENT = -1  # in place of an index
GOLDEN = (5**0.5 - 1) / 2


class Batch(NamedTuple):
    """One segment of every lane, or of the lanes of one host.

    Attributes:
      inputs: the tokens shifted by one, with 0 as the first input of a document; 0 on padding.
      targets: the token to predict at each position; 0 on padding.
      weights: of the losses: 1, or 0 on padding and on tokens that are not to be predicted.
      starts: where a block of W tokens begins a new document.
      turn: which of its P lanes each row holds; all rows have the same. None: P is 1.
    """

    inputs: Int32[np.ndarray, "B T"]
    targets: Int32[np.ndarray, "B T"]
    weights: Float32[np.ndarray, "B T"]
    starts: Bool[np.ndarray, "B N"]
    turn: Int32[np.ndarray, " B"] | None = None


class LanePosition(NamedTuple):
    """The state of the lanes before a batch: all that is needed to resume, on any number of hosts.

    Attributes:
      corpus: the fingerprint of the documents.
      epoch: the current epoch of each source of the mixture, from 0.
      next_document: how many documents of this epoch have been taken from each source.
      taken: tokens of all documents ever taken from each source.
      document: index of the document that each lane is in the middle of, or −1.
      offset: tokens of that document that the lane has read.
      turn: of the next batch, from 0 to P − 1: row i of it is lane i · P + turn.
    """

    corpus: Int64[np.ndarray, ""]
    epoch: Int64[np.ndarray, " sources"]
    next_document: Int64[np.ndarray, " sources"]
    taken: Int64[np.ndarray, " sources"]
    document: Int64[np.ndarray, " lanes"]
    offset: Int64[np.ndarray, " lanes"]
    turn: Int64[np.ndarray, ""]


class Span(NamedTuple):
    """`count` tokens of a document from `offset` on, and where they go in a batch."""

    row: int
    column: int
    document: int
    offset: int
    count: int


class Lanes:
    """Lays documents out in rows of segments.

    When a lane has finished its document, it takes the next one from a queue that all lanes share.
    A document starts at a block boundary, and the rest of its last block is padding. Every token,
    including the first and the end token, is a target exactly once. Queue and batch depend only on
    the seed and the position.

    Args:
      documents: one collection, or a `Mixture` of several; documents without tokens are skipped.
      batch_size: rows B of the global batch.
      segment_length: tokens T per row and batch.
      window_length: tokens W per block.
      seed: of the order of documents, which differs from epoch to epoch.
      shuffle: False: the longest documents first, so that in evaluation all rows end at about the
        same time.
      repeat: False: read the documents once; rows without a document are then padding.
      num_lanes: lanes, a multiple of `batch_size`; None: one per row.

    Raises:
      UserError: no documents, or a segment length that the window length does not divide.
    """

    def __init__(
        self,
        documents: Documents | Mixture,
        batch_size: int,
        segment_length: int,
        window_length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        repeat: bool = True,
        num_lanes: int | None = None,
    ):
        _check_lengths(batch_size, segment_length, window_length, seed)
        if not isinstance(documents, Mixture):
            documents = Mixture([documents], [1.0])
        if not all(source.num_tokens for source in documents.sources):
            raise UserError(
                "the corpus has no documents: set data.path, data.glob or data.stores to others"
            )
        self.documents, self.batch_size = documents, batch_size
        self.segment_length, self.window_length = segment_length, window_length
        self.seed, self.shuffle, self.repeat = seed, shuffle, repeat
        self.counts = [len(source.lengths) for source in documents.sources]
        self.num_lanes = num_lanes or batch_size
        self.turns = self.num_lanes // batch_size

    def initial_position(self) -> LanePosition:
        """The position before the first batch."""
        return LanePosition(
            np.array(self.documents.fingerprint, np.int64),
            *np.zeros((3, len(self.counts)), np.int64),
            document=np.full(self.num_lanes, NO_DOCUMENT, np.int64),
            offset=np.zeros(self.num_lanes, np.int64),
            turn=np.array(0, np.int64),
        )

    def staggered_position(self) -> LanePosition:
        """The position before the first batch, with every lane at another place of its document.

        If all began at the start of one, training would see nothing but the beginnings of documents
        for as long as it takes to come to the end of a document, in all lanes at once.
        """
        position = self.initial_position()
        queue = _Queue(self, position)
        document = np.array([queue.pop() for _ in range(self.num_lanes)], np.int64)
        # Multiples of the golden ratio fill the interval evenly, however many are taken.
        share = np.arange(self.num_lanes) * GOLDEN % 1
        return position._replace(
            epoch=np.array(queue.epoch, np.int64),
            next_document=np.array(queue.next, np.int64),
            taken=np.array(queue.taken, np.int64),
            document=document,
            offset=(share * self.documents.lengths[document]).astype(np.int64),
        )

    def exhausted(self, position: LanePosition) -> bool:
        """Whether all documents have been read; always False with `repeat`."""
        all_taken = bool(np.all(np.asarray(position.next_document) == self.counts))
        all_finished = bool(np.all(np.asarray(position.document) == NO_DOCUMENT))
        return not self.repeat and all_taken and all_finished

    def read(self, position: LanePosition, rows: slice = slice(None)) -> tuple[Batch, LanePosition]:
        """The batch at `position`, and the position after it. Does not change `position`.

        Args:
          position: of the global batch.
          rows: of the global batch that the result has; a host reads those of its own devices. The
            position after it is that of the global batch in any case.

        Raises:
          UserError: the position belongs to other lanes, or a file cannot be read any more.
        """
        spans, after = self._plan(position)
        chosen = range(self.batch_size)[rows]
        shape = len(chosen), self.segment_length
        batch = Batch(
            inputs=np.zeros(shape, np.int32),
            targets=np.zeros(shape, np.int32),
            weights=np.zeros(shape, np.float32),
            starts=np.zeros((shape[0], shape[1] // self.window_length), bool),
            turn=None if self.turns == 1 else np.full(len(chosen), position.turn, np.int32),
        )
        for span in spans:
            if span.row in chosen:
                self._copy(span, batch, chosen.index(span.row))
        return batch, after

    def _plan(self, position: LanePosition) -> tuple[list[Span], LanePosition]:
        """The spans of the global batch, from lengths alone: reads no token."""
        self._check_position(position)
        queue = _Queue(self, position)
        documents = np.array(position.document, np.int64)
        offsets = np.array(position.offset, np.int64)
        lengths = self.documents.lengths
        turn, spans = int(position.turn), []
        for row in range(self.batch_size):
            lane = row * self.turns + turn
            document, offset, column = int(documents[lane]), int(offsets[lane]), 0
            while column < self.segment_length:
                if document == NO_DOCUMENT:
                    document, offset = queue.pop(), 0
                    if document == NO_DOCUMENT:
                        break
                left = int(lengths[document]) - offset
                count = min(left, self.segment_length - column)
                spans.append(Span(row, column, document, offset, count))
                column += -(-count // self.window_length) * self.window_length
                document, offset = (NO_DOCUMENT, 0) if count == left else (document, offset + count)
            documents[lane], offsets[lane] = document, offset
        after = LanePosition(
            np.array(position.corpus, np.int64),
            *(np.array(numbers, np.int64) for numbers in (queue.epoch, queue.next, queue.taken)),
            document=documents,
            offset=offsets,
            turn=np.array((turn + 1) % self.turns, np.int64),
        )
        return spans, after

    def _copy(self, span: Span, batch: Batch, row: int):
        """Writes a span into a row of the batch."""
        _, column, document, offset, count = span
        # Within a document, the first input is the token before the span.
        before = min(offset, 1)
        tokens = self.documents.tokens(document, offset - before, offset + count)
        size = self.documents.vocabulary.size
        if tokens.max() >= size or tokens.min() < 0:
            wrong = tokens.min() if tokens.min() < 0 else tokens.max()
            raise UserError(
                f"{self.documents.names[document]} contains the token {wrong}, but its vocabulary "
                f"has {size} tokens: prepare the corpus again with the vocabulary of its tokens"
            )
        columns = slice(column, column + count)
        batch.inputs[row, column + 1 - before : column + count] = tokens[:-1]
        batch.targets[row, columns] = tokens[before:]
        batch.weights[row, columns] = self.documents.loss_weights(document, offset, offset + count)
        if offset == 0:
            batch.starts[row, column // self.window_length] = True

    def _check_position(self, position: LanePosition):
        """Refuses a position of another number of lanes or of another corpus."""
        lanes = len(np.asarray(position.document))
        if lanes != self.num_lanes:
            raise UserError(
                f"the position in the data has {lanes} lanes, but there are {self.num_lanes}: "
                f"resume with {lanes} (train.lanes, or else train.batch_size), or start a new run"
            )
        if int(position.corpus) != self.documents.fingerprint:
            raise UserError(
                "the corpus has changed since this run started: restore it, or start a new run"
            )


class _Queue:
    """The documents that no lane has taken yet, epoch after epoch."""

    def __init__(self, lanes: Lanes, position: LanePosition):
        self.lanes, self.mixture = lanes, lanes.documents
        self.epoch = [int(epoch) for epoch in position.epoch]
        self.next = [int(document) for document in position.next_document]
        self.taken = [int(tokens) for tokens in position.taken]

    def pop(self) -> int:
        """The index of the next document that has tokens, or −1 if no document is left."""
        while (source := self._next_source()) is not None:
            if self.next[source] == self.lanes.counts[source]:
                self.epoch[source], self.next[source] = self.epoch[source] + 1, 0
            document = self._next_document(source)
            self.next[source] += 1
            length = int(self.mixture.lengths[document])
            self.taken[source] += length
            if length:
                return document
        return NO_DOCUMENT

    def _next_source(self) -> int | None:
        """Of the sources with documents left, the one with the fewest tokens taken per weight."""
        tokens_per_weight = {
            source: self.taken[source] / weight
            for source, weight in enumerate(self.mixture.weights)
            if self.lanes.repeat or self.next[source] < self.lanes.counts[source]
        }
        return min(tokens_per_weight, key=tokens_per_weight.get, default=None)

    def _next_document(self, source: int) -> int:
        """The next document in the source's order, which is computed for each epoch, not stored."""
        count, index = self.lanes.counts[source], self.next[source]
        if self.lanes.shuffle:
            seeds = np.random.SeedSequence([self.lanes.seed, source, self.epoch[source]])
            seed = int(seeds.generate_state(1)[0])
            index = index_shuffle(index, max_index=count - 1, seed=seed, rounds=4)
        else:
            index = int(self.mixture.longest_first[source][index])
        return self.mixture.offsets[source] + index


def _check_lengths(batch_size: int, segment_length: int, window_length: int, seed: int):
    for name, value, least in [
        ("batch_size", batch_size, 1),
        ("segment_length", segment_length, 1),
        ("window_length", window_length, 1),
        ("seed", seed, 0),
    ]:
        if value < least:
            raise UserError(f"{name} = {value} is too small: it must be at least {least}")
    check_segment(segment_length, window_length)
