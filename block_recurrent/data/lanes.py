"""Lanes: streams of documents that take turns in the rows of the batches.

With one lane per row, row i of a batch continues row i of the last batch. With P lanes per row, it
continues row i of the batch P steps earlier, and P times as many documents are open.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from block_recurrent.config.train_options import check_segment
from block_recurrent.data.document_queue import NO_DOCUMENT, DocumentQueue
from block_recurrent.data.documents import Documents
from block_recurrent.data.mixture import Mixture
from block_recurrent.errors import UserError

GOLDEN_RATIO = (5**0.5 - 1) / 2


class Batch(NamedTuple):
    """One segment of every lane, or of the lanes of one host.

    Attributes:
      inputs: the targets shifted by one; 0 at the start of a document and on padding.
      targets: the token to predict at each position; 0 on padding.
      weights: weight of each target in the loss: 1, or 0 on padding and tokens not to be predicted.
      starts: whether a block of W tokens starts a document.
      turn: which of its P lanes each row contains, the same for all rows; None if P is 1.
    """

    inputs: Int32[np.ndarray, "B T"]
    targets: Int32[np.ndarray, "B T"]
    weights: Float32[np.ndarray, "B T"]
    starts: Bool[np.ndarray, "B N"]
    turn: Int32[np.ndarray, " B"] | None = None


class LanePosition(NamedTuple):
    """The state of the lanes before a batch, from which any number of hosts can resume.

    Attributes:
      corpus: the fingerprint of the documents.
      epoch: the current epoch of each source of the mixture, from 0.
      next_document: number of documents taken from each source in this epoch.
      taken: number of tokens of all documents taken from each source in all epochs.
      document: index of the document that each lane is reading, or −1.
      offset: number of tokens of that document that the lane has read.
      turn: from 0 to P − 1. Row i of the next batch contains lane i · P + turn.
    """

    corpus: Int64[np.ndarray, ""]
    epoch: Int64[np.ndarray, " sources"]
    next_document: Int64[np.ndarray, " sources"]
    taken: Int64[np.ndarray, " sources"]
    document: Int64[np.ndarray, " lanes"]
    offset: Int64[np.ndarray, " lanes"]
    turn: Int64[np.ndarray, ""]


class Span(NamedTuple):
    """`count` tokens of a document from `offset` on, and their place in a batch."""

    row: int
    column: int
    document: int
    offset: int
    count: int


class Lanes:
    """Packs documents into the rows of batches.

    When a lane has finished its document, it takes the next one from a queue that all lanes share.
    A document starts at a block boundary, and the rest of its last block is padding. In each epoch,
    every token is a target exactly once, including the first one and the end token. A batch depends
    only on the seed and the position.

    Args:
      documents: one collection, or a `Mixture` of several; documents without tokens are skipped.
      batch_size: rows B of the global batch.
      segment_length: tokens T per row and batch.
      window_length: tokens W per block.
      seed: seed of the order of documents, which differs between epochs.
      shuffle: if False, the longest documents come first, so that in evaluation all rows end at
        about the same time.
      repeat: if False, documents are read only once, and rows without a document are padding.
      num_lanes: number of lanes, a multiple of `batch_size`; None: one per row.

    Raises:
      UserError: there are no documents, or the segment length is not a multiple of the window
        length.
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
        """The position before the first batch, with each lane at a different point of a document.

        If all lanes began at the start of a document, early training would see only the beginnings
        of documents.
        """
        position = self.initial_position()
        queue = self.queue(position)
        document = np.array([queue.pop() for _ in range(self.num_lanes)], np.int64)
        # The fractional parts of multiples of the golden ratio are evenly spread over [0, 1).
        share = np.arange(self.num_lanes) * GOLDEN_RATIO % 1
        return position._replace(
            **queue.counters(),
            document=document,
            offset=(share * self.documents.lengths[document]).astype(np.int64),
        )

    def queue(self, position: LanePosition) -> DocumentQueue:
        """The documents that no lane has taken yet at a position."""
        return DocumentQueue(
            self.documents,
            position.epoch,
            position.next_document,
            position.taken,
            seed=self.seed,
            shuffle=self.shuffle,
            repeat=self.repeat,
        )

    def exhausted(self, position: LanePosition) -> bool:
        """Whether all documents have been read; always False with `repeat`."""
        all_taken = bool(np.all(np.asarray(position.next_document) == self.counts))
        all_finished = bool(np.all(np.asarray(position.document) == NO_DOCUMENT))
        return not self.repeat and all_taken and all_finished

    def read(self, position: LanePosition, rows: slice = slice(None)) -> tuple[Batch, LanePosition]:
        """Reads the batch at `position`, which is not changed.

        Args:
          position: the position of the global batch.
          rows: the rows of the global batch to read; a host reads those of its own devices.

        Returns:
          The batch with these rows, and the position after the global batch.

        Raises:
          UserError: the position belongs to other lanes, or a file can no longer be read.
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
        """The spans of the global batch, and the position after it. Reads no tokens."""
        self._check_position(position)
        queue = self.queue(position)
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
            **queue.counters(),
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
        """Raises UserError for a position of another number of lanes or another corpus."""
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
