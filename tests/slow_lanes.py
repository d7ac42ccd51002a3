"""Documents whose tokens can be traced, and a slow reference for lanes."""

import functools

import numpy as np

from block_recurrent.data import document_queue

W = 4

# It takes milliseconds where there are few documents, and tests read the same ones again and again.
document_queue.index_shuffle = functools.cache(document_queue.index_shuffle)


class Numbered:
    """Documents in which all tokens are different, 1, 2, 3, …, so that each can be traced."""

    def __init__(self, lengths, vocab_size=10**6):
        self.lengths = np.array(lengths, np.int64)
        self.names = [f"document {i}" for i in range(len(lengths))]
        self.firsts = 1 + np.cumsum(self.lengths) - self.lengths
        self.num_tokens = self.num_bytes = self.num_words = int(self.lengths.sum())
        self.num_characters, self.text_lost = None, 0.0
        self.fingerprint = hash(tuple(lengths)) % 2**63
        self.vocabulary = type("Vocabulary", (), {"size": vocab_size, "name": "numbers"})()

    def tokens(self, document, start, stop):
        assert 0 <= start < stop <= self.lengths[document], "a read outside the document"
        return (self.firsts[document] + np.arange(start, stop)).astype(np.uint32)

    def loss_weights(self, document, start, stop):
        return 1


def read_all(lanes):
    position, batches = lanes.initial_position(), []
    while not lanes.exhausted(position):
        batch, position = lanes.read(position)
        batches.append(batch)
    return batches


def read_some(lanes, number, position=None):
    position, batches = position or lanes.initial_position(), []
    for _ in range(number):
        batch, position = lanes.read(position)
        batches.append(batch)
    return batches, position


def order_of(lanes, epoch):
    """The documents that have tokens, in the order of one epoch of lanes with one source."""
    start = lanes.initial_position()
    queue = lanes.queue(start._replace(epoch=start.epoch + epoch))
    taken = [queue.pop() for _ in range(np.count_nonzero(lanes.documents.lengths))]
    assert queue.epoch == [epoch]
    return taken


def slow_lanes(documents, order, batch_size, segment_length):
    """Lanes, block by block and token by token; `order` yields documents, then always None."""
    rows = [[] for _ in range(batch_size)]  # what is left of each row's document: (input, target)
    while True:
        batch = []
        for row in range(batch_size):
            places, starts = [], []
            for _ in range(segment_length // W):
                starts.append(False)
                if not rows[row]:
                    document = next(order)
                    if document is not None:
                        tokens = documents.tokens(document, 0, documents.lengths[document]).tolist()
                        rows[row] = list(zip([0, *tokens], tokens, strict=False))
                        starts[-1] = True
                block, rows[row] = rows[row][:W], rows[row][W:]
                places += [(x, y, 1) for x, y in block] + [(0, 0, 0)] * (W - len(block))
            batch.append(([*zip(*places, strict=True)], starts))
        yield batch
