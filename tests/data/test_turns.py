"""More lanes than rows: which lane is in which row when, and where lanes begin."""

import itertools

import numpy as np
import pytest

from block_recurrent.data.lanes import NO_DOCUMENT, Batch, LanePosition, Lanes
from slow_lanes import Numbered, W, order_of, read_some, slow_lanes

LENGTHS = [1, W - 1, W, W + 1, 0, 2 * W, 1, 403, 3, 57, 2, 1, 1, 16, 31, 0]
ROWS, TURNS, T = 3, 4, 2 * W


def make_lanes(**options):
    return Lanes(Numbered(LENGTHS), ROWS, T, W, seed=3, num_lanes=ROWS * TURNS, **options)


def assert_equal(one, other):
    for name in one._fields:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_rows_hold_their_lanes_in_turn():
    """A batch is that of a slow reference in which the rows' own lanes take turns."""
    lanes = make_lanes()
    order = (d for epoch in itertools.count() for d in order_of(lanes, epoch))
    groups = [slow_lanes(lanes.documents.sources[0], order, ROWS, T) for _ in range(TURNS)]
    batches, position = read_some(lanes, 5 * TURNS + 2)
    for number, batch in enumerate(batches):
        assert batch.turn.tolist() == [number % TURNS] * ROWS
        for row, ((inputs, targets, weights), starts) in enumerate(next(groups[number % TURNS])):
            assert batch.inputs[row].tolist() == list(inputs)
            assert batch.targets[row].tolist() == list(targets)
            assert batch.weights[row].tolist() == list(weights)
            assert batch.starts[row].tolist() == starts
    assert position.turn == 2


def test_one_lane_per_row_is_no_turn():
    lanes = Lanes(Numbered(LENGTHS), ROWS, T, W, seed=3, num_lanes=ROWS)
    (batch, *_), position = read_some(lanes, 5)
    assert batch.turn is None and position.turn == 0


@pytest.mark.parametrize("number", [0, 1, 6, 25])
def test_resumes_from_any_position(number):
    _, position = read_some(make_lanes(), number, make_lanes().staggered_position())
    restored = LanePosition(*(np.asarray(array.tolist()) for array in position))
    straight, end = read_some(make_lanes(), number + 10, make_lanes().staggered_position())
    resumed, end_resumed = read_some(make_lanes(), 10, restored)
    for batch, expected in zip(resumed, straight[number:], strict=True):
        assert_equal(batch, expected)
    assert_equal(end_resumed, end)


def test_hosts_read_the_same_global_batches():
    lanes, position = make_lanes(), make_lanes().staggered_position()
    for _ in range(3 * TURNS):
        batch, after = lanes.read(position)
        parts = [lanes.read(position, slice(row, row + 1)) for row in range(ROWS)]
        assert_equal(batch, Batch(*map(np.concatenate, zip(*(p[0] for p in parts), strict=True))))
        for _, other in parts:
            assert_equal(after, other)
        position = after


def test_lanes_begin_at_places_spread_over_their_documents():
    lengths = [1000] * 64
    lanes = Lanes(Numbered(lengths), 4, T, W, num_lanes=32)
    position = lanes.staggered_position()
    assert len(set(position.document.tolist())) == 32 and NO_DOCUMENT not in position.document
    thirds = np.histogram(position.offset, bins=[0, 333, 667, 1000])[0]
    assert thirds.min() >= 10
    batch, _ = lanes.read(position)
    first = lanes.documents.sources[0].firsts[position.document[::8]] + position.offset[::8]
    np.testing.assert_array_equal(batch.targets[:, 0], first)
    np.testing.assert_array_equal(batch.starts[:, 0], position.offset[::8] == 0)


def test_every_token_after_the_places_where_lanes_begin_is_predicted_once():
    lanes = make_lanes(repeat=False)
    documents = lanes.documents.sources[0]
    start = lanes.staggered_position()
    position, targets = start, []
    while not lanes.exhausted(position):
        batch, position = lanes.read(position)
        targets += batch.targets[batch.weights == 1].tolist()
    before = {
        int(documents.firsts[document]) + place
        for document, offset in zip(start.document, start.offset, strict=True)
        for place in range(offset)
    }
    assert sorted(targets) == sorted(set(range(1, 1 + documents.num_tokens)) - before)
