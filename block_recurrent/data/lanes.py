"""Lanes: row i of every batch continues the document that row i held in the batch before."""

from typing import NamedTuple

import numpy as np
from grain.experimental import index_shuffle
from jaxtyping import Bool, Float32, Int32, Int64

from block_recurrent.config.options import check_segment
from block_recurrent.data.documents import Documents
from block_recurrent.data.mixture import Mixture
from block_recurrent.errors import UserError

NONE = -1  # as a document: the row holds none


class Batch(NamedTuple):
    """One segment of every lane, or of some of them.

    Attributes:
      inputs: the tokens shifted by one, after a 0 at a document's start; 0 on padding.
      targets: what to predict at each place; 0 on padding.
      weights: of the losses: 0 on padding and where nothing is asked, 1 elsewhere.
      starts: where a block of W tokens begins a new document.
    """

    inputs: Int32[np.ndarray, "B T"]
    targets: Int32[np.ndarray, "B T"]
    weights: Float32[np.ndarray, "B T"]
    starts: Bool[np.ndarray, "B N"]


class LanePosition(NamedTuple):
    """Where the lanes stand before a batch: all there is to resume from, on any number of hosts.

    Attributes:
      corpus: the fingerprint of the documents.
      epoch: passes begun over each source of the mixture, less one.
      next_document: how many documents of the epoch's order rows have taken from each source.
      taken: tokens of all documents ever taken from each source.
      document: the index that each row is in the middle of, or −1.
      offset: tokens of it that the row has read.
    """

    corpus: Int64[np.ndarray, ""]
    epoch: Int64[np.ndarray, " sources"]
    next_document: Int64[np.ndarray, " sources"]
    taken: Int64[np.ndarray, " sources"]
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
      documents: one collection, or a `Mixture` of several; documents without tokens are left out.
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
        documents: Documents | Mixture,
        batch_size: int,
        segment_length: int,
        window_length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        repeat: bool = True,
    ):
        _check_lengths(batch_size, segment_length, window_length, seed)
        if not isinstance(documents, Mixture):
            documents = Mixture([documents], [1.0])
        if not all(source.num_tokens for source in documents.sources):
            raise UserError("the corpus has no documents: name another by data.path or data.glob")
        self.documents, self.batch_size = documents, batch_size
        self.segment_length, self.window_length = segment_length, window_length
        self.seed, self.shuffle, self.repeat = seed, shuffle, repeat
        self.counts = [len(source.lengths) for source in documents.sources]

    def initial_position(self) -> LanePosition:
        """Before the first batch."""
        return LanePosition(
            np.array(self.documents.fingerprint, np.int64),
            *np.zeros((3, len(self.counts)), np.int64),
            document=np.full(self.batch_size, NONE, np.int64),
            offset=np.zeros(self.batch_size, np.int64),
        )

    def exhausted(self, position: LanePosition) -> bool:
        """Whether nothing is left to read; never so with `repeat`."""
        all_taken = bool(np.all(np.asarray(position.next_document) == self.counts))
        return not self.repeat and all_taken and bool(np.all(np.asarray(position.document) == NONE))

    def read(self, position: LanePosition, rows: slice = slice(None)) -> tuple[Batch, LanePosition]:
        """The batch at `position`, which stays as it is, and the position after it.

        Args:
          position: of the global batch.
          rows: those that the batch is to hold, for a host that feeds only its own devices. The
            position after it is that of the global batch whatever they are.

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
        )
        for span in spans:
            if span.row in chosen:
                self._copy(span, batch, chosen.index(span.row))
        return batch, after

    def _plan(self, position: LanePosition) -> tuple[list[Span], LanePosition]:
        """What to copy where: known from lengths alone, without reading a token."""
        self._check(position)
        queue = _Queue(self, position)
        documents = np.array(position.document, np.int64)
        offsets = np.array(position.offset, np.int64)
        lengths = self.documents.lengths
        spans = []
        for row in range(self.batch_size):
            document, offset, place = int(documents[row]), int(offsets[row]), 0
            while place < self.segment_length:
                if document == NONE:
                    document, offset = queue.take(), 0
                    if document == NONE:
                        break
                left = int(lengths[document]) - offset
                count = min(left, self.segment_length - place)
                spans.append(Span(row, place, document, offset, count))
                place += -(-count // self.window_length) * self.window_length
                document, offset = (NONE, 0) if count == left else (document, offset + count)
            documents[row], offsets[row] = document, offset
        after = LanePosition(
            np.array(position.corpus, np.int64),
            *(np.array(numbers, np.int64) for numbers in (queue.epoch, queue.next, queue.taken)),
            document=documents,
            offset=offsets,
        )
        return spans, after

    def _copy(self, span: Span, batch: Batch, row: int):
        """Writes one piece of a document into a row of the batch."""
        _, place, document, offset, count = span
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
        batch.weights[row, places] = self.documents.loss_weights(document, offset, offset + count)
        if offset == 0:
            batch.starts[row, place // self.window_length] = True

    def _check(self, position: LanePosition):
        """Refuses a position of another batch size or another corpus."""
        rows = len(np.asarray(position.document))
        if rows != self.batch_size:
            raise UserError(
                f"the position in the data has {rows} rows, but the batch size is "
                f"{self.batch_size}: resume with the batch size of before, or start a new run"
            )
        if int(position.corpus) != self.documents.fingerprint:
            raise UserError(
                "the corpus is not the one that this run has read up to now: restore it as it was, "
                "or start a new run"
            )


class _Queue:
    """The documents that no row has taken yet, over the epochs."""

    def __init__(self, lanes: Lanes, position: LanePosition):
        self.lanes, self.mixture = lanes, lanes.documents
        self.epoch = [int(epoch) for epoch in position.epoch]
        self.next = [int(document) for document in position.next_document]
        self.taken = [int(tokens) for tokens in position.taken]

    def take(self) -> int:
        """The next document that has tokens, or −1 where there is none."""
        while (source := self._most_behind()) != NONE:
            if self.next[source] == self.lanes.counts[source]:
                self.epoch[source], self.next[source] = self.epoch[source] + 1, 0
            document = self._document(source)
            self.next[source] += 1
            length = int(self.mixture.lengths[document])
            self.taken[source] += length
            if length:
                return document
        return NONE

    def _most_behind(self) -> int:
        """The source that has given least for its weight, of those that have documents left."""
        shares = [
            (taken / weight, source)
            for source, (taken, weight) in enumerate(
                zip(self.taken, self.mixture.weights, strict=True)
            )
            if self.lanes.repeat or self.next[source] < self.lanes.counts[source]
        ]
        return min(shares, default=(0, NONE))[1]

    def _document(self, source: int) -> int:
        """The next one in the order of the source's epoch, which is computed, not stored."""
        count, place = self.lanes.counts[source], self.next[source]
        if self.lanes.shuffle:
            seeds = np.random.SeedSequence([self.lanes.seed, source, self.epoch[source]])
            seed = int(seeds.generate_state(1)[0])
            place = index_shuffle(place, max_index=count - 1, seed=seed, rounds=4)
        else:
            place = int(self.mixture.longest_first[source][place])
        return self.mixture.firsts[source] + place


def _check_lengths(batch_size: int, segment_length: int, window_length: int, seed: int):
    for name, value, least in [
        ("batch_size", batch_size, 1),
        ("segment_length", segment_length, 1),
        ("window_length", window_length, 1),
        ("seed", seed, 0),
    ]:
        if value < least:
            raise UserError(f"{name} = {value} is too small: choose {least} or more")
    check_segment(segment_length, window_length)
