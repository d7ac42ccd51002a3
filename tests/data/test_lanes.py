"""Lanes: each token is a target once, in its row, after the right input, from any position."""

import itertools
import threading

import jax
import numpy as np
import pytest

from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.lanes import LanePosition, Lanes
from block_recurrent.data.mixture import Mixture
from block_recurrent.data.prefetch import prefetch
from block_recurrent.errors import UserError
from slow_lanes import Numbered, W, order_of, read_all, read_some, slow_lanes

LENGTHS = [1, W - 1, W, W + 1, 0, 2 * W, 1, 403, 3, 57, 2, 1, 1, 16, 31, 0]
SHAPES = [(1, W), (1, 5 * W), (3, W), (3, 2 * W), (4, 16 * W), (40, 8 * W)]


def assert_equal(one, other):
    for name in one._fields:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("batch_size, segment_length", SHAPES)
def test_equals_slow_reference_over_epochs(batch_size, segment_length):
    documents = Numbered(LENGTHS)
    lanes = Lanes(documents, batch_size, segment_length, W, seed=3)
    order = (d for epoch in itertools.count() for d in order_of(lanes, epoch))
    number = 3 * documents.num_tokens // (batch_size * segment_length) + 5
    batches, position = read_some(lanes, number)
    expected = slow_lanes(documents, order, batch_size, segment_length)
    for batch, rows in zip(batches, expected, strict=False):
        for row, ((inputs, targets, weights), starts) in enumerate(rows):
            assert batch.inputs[row].tolist() == list(inputs)
            assert batch.targets[row].tolist() == list(targets)
            assert batch.weights[row].tolist() == list(weights)
            assert batch.starts[row].tolist() == starts
    assert position.epoch >= 1, "the test must cross an epoch"


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size, segment_length", SHAPES)
def test_every_token_is_predicted_exactly_once(batch_size, segment_length, shuffle):
    documents = Numbered(LENGTHS)
    batches = read_all(
        Lanes(documents, batch_size, segment_length, W, shuffle=shuffle, repeat=False)
    )
    inputs, targets, weights = (
        np.concatenate([getattr(batch, name).ravel() for batch in batches])
        for name in ("inputs", "targets", "weights")
    )
    assert set(weights.tolist()) <= {0, 1}
    real = weights == 1
    assert sorted(targets[real].tolist()) == list(range(1, documents.num_tokens + 1))
    assert not targets[~real].any() and not inputs[~real].any()
    firsts = np.isin(targets[real], documents.firsts[documents.lengths > 0])
    np.testing.assert_array_equal(inputs[real], np.where(firsts, 0, targets[real] - 1))


@pytest.mark.parametrize("batch_size, segment_length", SHAPES)
def test_starts_mark_exactly_the_first_blocks(batch_size, segment_length):
    documents = Numbered(LENGTHS)
    for batch in read_all(Lanes(documents, batch_size, segment_length, W, repeat=False)):
        block_heads = batch.targets[:, ::W] * (batch.weights[:, ::W] == 1)
        np.testing.assert_array_equal(batch.starts, np.isin(block_heads, documents.firsts))
        assert batch.starts.shape == (batch_size, segment_length // W)


def test_rows_continue_their_documents():
    lanes = Lanes(Numbered([100, 90, 80]), 3, 2 * W, W)
    batches, _ = read_some(lanes, 10)  # 80 tokens per row: no document has ended yet
    rows = np.concatenate([batch.targets for batch in batches], axis=1)
    assert (np.diff(rows, axis=1) == 1).all()
    assert batches[0].starts[:, 0].all() and not any(batch.starts.any() for batch in batches[1:])


def test_types_and_shapes():
    batch, position = Lanes(Numbered(LENGTHS), 2, 2 * W, W).read(
        Lanes(Numbered(LENGTHS), 2, 2 * W, W).initial_position()
    )
    assert [array.dtype for array in batch[:4]] == [np.int32, np.int32, np.float32, bool]
    assert all(isinstance(array, np.ndarray) for array in position)
    assert {array.dtype for array in position} == {np.dtype(np.int64)}
    assert [array.shape for array in position] == [(), (1,), (1,), (1,), (2,), (2,), ()]


def test_read_does_not_change_its_position():
    lanes = Lanes(Numbered(LENGTHS), 3, 2 * W, W)
    position = lanes.initial_position()
    for _ in range(80):
        before = LanePosition(*(array.copy() for array in position))
        for array in position:
            array.setflags(write=False)
        batch, after = lanes.read(position)
        assert_equal(position, before)
        again, after_again = lanes.read(position)
        assert_equal(batch, again)
        assert_equal(after, after_again)
        position = after


@pytest.mark.parametrize("number", [0, 1, 7, 24, 25, 60])
def test_resumes_from_any_position(number):
    _, position = read_some(Lanes(Numbered(LENGTHS), 3, 2 * W, W, seed=5), number)
    stored = [array.tolist() for array in position]
    restored = LanePosition(*(np.asarray(value) for value in stored))
    straight, end = read_some(Lanes(Numbered(LENGTHS), 3, 2 * W, W, seed=5), number + 30)
    resumed, end_resumed = read_some(Lanes(Numbered(LENGTHS), 3, 2 * W, W, seed=5), 30, restored)
    for batch, expected in zip(resumed, straight[number:], strict=True):
        assert_equal(batch, expected)
    assert_equal(end_resumed, end)


# Hosts


def host_rows(batch_size, hosts):
    size = batch_size // hosts
    return [slice(host * size, (host + 1) * size) for host in range(hosts)]


def read_as_hosts(hosts, position, number):
    """The global batches, concatenated from the parts that each host reads with its own lanes."""
    readers = [Lanes(Numbered(LENGTHS), 8, 2 * W, W, seed=1) for _ in range(hosts)]
    batches = []
    for _ in range(number):
        parts, positions = zip(
            *(
                lanes.read(position, rows)
                for lanes, rows in zip(readers, host_rows(8, hosts), strict=True)
            ),
            strict=True,
        )
        batches.append(jax.tree.map(lambda *rows: np.concatenate(rows), *parts))
        position = positions[0]
        for other in positions[1:]:
            assert_equal(other, position)
    return batches, position


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_read_the_same_global_batches(hosts):
    lanes = Lanes(Numbered(LENGTHS), 8, 2 * W, W, seed=1)
    expected, end = read_some(lanes, 30)
    batches, position = read_as_hosts(hosts, lanes.initial_position(), 30)
    for batch, other in zip(batches, expected, strict=True):
        assert_equal(batch, other)
    assert_equal(position, end)


@pytest.mark.parametrize("before, after", [(2, 4), (4, 1), (1, 8)])
def test_resumes_on_another_number_of_hosts(before, after):
    lanes = Lanes(Numbered(LENGTHS), 8, 2 * W, W, seed=1)
    expected, end = read_some(lanes, 30)
    first, position = read_as_hosts(before, lanes.initial_position(), 13)
    second, position = read_as_hosts(after, position, 17)
    for batch, other in zip(first + second, expected, strict=True):
        assert_equal(batch, other)
    assert_equal(position, end)


# Mixtures


def mixture(*lengths, weights):
    return Mixture([Numbered(each) for each in lengths], weights)


def share_of_sources(documents, number, **options):
    """The share of the tokens read from each source, and the position after `number` batches."""
    lanes = Lanes(documents, 4, 4 * W, W, **options)
    _, position = read_some(lanes, number)
    return position.taken / position.taken.sum(), position


def test_sources_are_read_in_proportion_to_their_weights():
    documents = mixture([50] * 7, [10, 400, 3] * 5, [90] * 20, weights=[1.0, 5.0, 2.0])
    share, position = share_of_sources(documents, 1000)
    np.testing.assert_allclose(share, np.array([1, 5, 2]) / 8, atol=0.01)
    assert (position.epoch >= 1).all()


def test_weights_by_size_read_each_source_once_per_epoch():
    """A source may be one document ahead of the others."""
    lengths = [7] * 30, [11] * 10, [20] * 20
    documents = mixture(*lengths, weights=[float(sum(each)) for each in lengths])
    lanes = Lanes(documents, 1, W, W)
    queue = lanes.queue(lanes.initial_position())
    taken = [queue.pop() for _ in range(60)]
    assert len(set(taken)) >= 57


def test_a_mixture_reads_every_document_once_in_evaluation():
    documents = mixture([3, 9, 0], [2, 40], weights=[1.0, 9.0])
    batches = read_all(Lanes(documents, 2, 2 * W, W, shuffle=False, repeat=False))
    assert sum(int(batch.weights.sum()) for batch in batches) == documents.num_tokens == 54
    targets = np.concatenate([batch.targets[batch.weights == 1] for batch in batches])
    assert sorted(targets.tolist()) == sorted([*range(1, 13), *range(1, 43)])


def test_a_mixture_resumes():
    def lanes():
        documents = mixture([50] * 7, [10, 400, 3], weights=[1.0, 2.0])
        return Lanes(documents, 3, 2 * W, W)

    expected, end = read_some(lanes(), 60)
    _, position = read_some(lanes(), 23)
    rest, position = read_some(lanes(), 37, position)
    for batch, other in zip(rest, expected[23:], strict=True):
        assert_equal(batch, other)
    assert_equal(position, end)


def test_bytes_per_token_follow_the_weights():
    documents = mixture([10], [10], weights=[1.0, 3.0])
    documents.sources[0].num_bytes, documents.sources[1].num_bytes = 20, 40
    assert documents.bytes_per_token == (2 * 1 + 4 * 3) / 4


# Padding, prefetching


def test_padding_of_books_is_under_two_percent():
    """PG19's books have about 100,000 tokens. These are half as long, which makes it harder."""
    rng = np.random.default_rng(0)
    lengths = np.maximum(rng.lognormal(np.log(50_000), 1.0, 2000).astype(int), 1)
    lanes = Lanes(Zeros(lengths), 32, 4096, 512)
    batches, _ = read_some(lanes, 100)
    padding = 1 - np.mean([batch.weights.mean() for batch in batches])
    assert 0 < padding < 0.02


class Zeros(Numbered):
    """Documents in which every token is 0."""

    def tokens(self, document, start, stop):
        return np.zeros(stop - start, np.uint16)


def test_prefetch_reads_the_same():
    lanes = Lanes(Numbered(LENGTHS), 3, 2 * W, W, seed=5)
    expected, _ = read_some(lanes, 40)
    with prefetch(lanes, lanes.initial_position()) as batches:
        for batch in expected[:20]:
            read, position = next(batches)
            assert_equal(read, batch)
    with prefetch(
        lanes, position, slice(1, 3)
    ) as batches:  # resumes exactly, although more was read ahead
        for batch in expected[20:]:
            assert_equal(next(batches)[0], jax.tree.map(lambda array: array[1:3], batch))


def test_prefetch_calls_put_in_its_thread():
    lanes = Lanes(Numbered(LENGTHS), 3, 2 * W, W)
    threads = set()

    def put(batch):
        threads.add(threading.get_ident())
        return batch._replace(inputs=-batch.inputs)

    (expected,), _ = read_some(lanes, 1)
    with prefetch(lanes, lanes.initial_position(), put=put) as batches:
        assert_equal(next(batches)[0], put(expected))
    assert len(threads) == 2


def test_prefetch_ends_with_the_documents():
    lanes = Lanes(Numbered(LENGTHS), 3, 2 * W, W, repeat=False)
    with prefetch(lanes, lanes.initial_position()) as batches:
        read = [batch for batch, _ in batches]
    for batch, other in zip(read, read_all(lanes), strict=True):
        assert_equal(batch, other)


def test_prefetch_raises_what_the_reader_raises():
    lanes = Lanes(Numbered([3, 5], vocab_size=8), 1, W, W, shuffle=False)
    with prefetch(lanes, lanes.initial_position()) as batches, pytest.raises(UserError):
        for _ in range(4):
            next(batches)


# Order


def first_tokens(lanes, number):
    batches, _ = read_some(lanes, number)
    return np.concatenate([batch.targets[0] for batch in batches]).tolist()


def test_seeds_and_epochs_order_documents_differently():
    def epochs(**options):
        tokens = first_tokens(Lanes(Numbered([W] * 50), 1, W, W, **options), 100)[::W]
        return tokens[:50], tokens[50:]

    first, second = epochs(seed=0)
    other, _ = epochs(seed=1)
    in_order = sorted(first)
    assert in_order == sorted(second) == sorted(other) == list(range(1, 201, W))
    assert in_order != first != second != in_order and other not in (first, second, in_order)
    assert epochs(seed=0) == (first, second)


def test_the_order_stays_that_of_older_runs():
    """Pinned: a run must resume in the same order with other versions of NumPy and grain."""
    lanes = Lanes(Numbered([W] * 8), 1, W, W, seed=0)
    assert [order_of(lanes, epoch) for epoch in (0, 1)] == [
        [5, 3, 6, 7, 4, 2, 1, 0],
        [3, 0, 6, 2, 7, 4, 1, 5],
    ]


def test_evaluation_reads_the_longest_first():
    tokens = first_tokens(Lanes(Numbered([3, 9, 1, 9]), 1, 7 * W, W, shuffle=False), 1)
    assert [tokens[place] for place in (0, 3 * W, 6 * W)] == [4, 14, 1]


def test_rows_without_documents_are_padding():
    lanes = Lanes(Numbered([3 * W, W]), 3, W, W, shuffle=False, repeat=False)
    batches = read_all(lanes)
    assert [batch.weights.sum(axis=1).tolist() for batch in batches] == [
        [W, W, 0],
        [W, 0, 0],
        [W, 0, 0],
    ]
    _, position = read_some(lanes, 3)
    batch, _ = lanes.read(position)
    assert lanes.exhausted(position) and not batch.weights.any() and not batch.starts.any()


def test_not_exhausted_while_a_row_is_in_a_document():
    lanes = Lanes(Numbered([2 * W]), 2, W, W, repeat=False)
    _, position = lanes.read(lanes.initial_position())
    assert not lanes.exhausted(position)
    assert lanes.exhausted(lanes.read(position)[1])
    repeating = Lanes(Numbered([W]), 1, W, W)
    assert not repeating.exhausted(repeating.read(repeating.initial_position())[1])


def test_one_read_crosses_epochs_of_a_small_corpus():
    batch, position = read_some(Lanes(Numbered([2, 3]), 4, 8 * W, W), 1)
    assert batch[0].weights.sum() == 4 * 8 / 2 * 5  # 32 blocks, 16 of each document
    assert position.epoch == 15 and position.next_document == 2


def test_a_huge_document_is_read_in_pieces():
    huge = Numbered([10**12, W], vocab_size=2**40)
    lanes = Lanes(huge, 1, 2 * W, W, shuffle=False)
    position = lanes.initial_position()._replace(
        next_document=np.array([1]), document=np.array([0]), offset=np.array([10**9])
    )
    batch, after = lanes.read(position)
    assert batch.targets[0].tolist() == [10**9 + 1 + i for i in range(2 * W)]
    assert batch.inputs[0, 0] == 10**9 and after.offset == 10**9 + 2 * W


def test_byte_documents_in_lanes():
    documents = ByteDocuments({"a": b"abcde", "b": b""})
    (batch,) = read_all(Lanes(documents, 1, 3 * W, W, shuffle=False, repeat=False))
    a = [ord(c) + 3 for c in "abcde"]
    assert batch.targets[0].tolist() == [*a, 1, 0, 0, 1, 0, 0, 0]
    assert batch.inputs[0].tolist() == [0, *a, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            (8, 500, 128),
            "segment_length = 500 is not a multiple of window_length = 128: "
            "384 and 512 are the nearest",
        ),
        (
            (8, 100, 128),
            "segment_length = 100 is not a multiple of window_length = 128: 128 is the nearest",
        ),
        ((0, 128, 128), "batch_size = 0 is too small: it must be at least 1"),
        ((8, 0, 128), "segment_length = 0 is too small: it must be at least 1"),
    ],
)
def test_invalid_lengths_are_refused(arguments, message):
    with pytest.raises(UserError) as error:
        Lanes(Numbered([5]), *arguments)
    assert str(error.value) == message


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_no_documents(lengths):
    with pytest.raises(UserError, match="the corpus has no documents: set data.path"):
        Lanes(Numbered(lengths), 1, W, W)


def test_a_token_outside_the_vocabulary():
    lanes = Lanes(Numbered([3, 5], vocab_size=8), 1, 2 * W, W, shuffle=False)
    with pytest.raises(UserError, match="document 1 contains the token 8, .* has 8 tokens"):
        read_some(lanes, 1)
    read_some(Lanes(Numbered([3, 5], vocab_size=9), 1, 2 * W, W), 3)


def test_a_position_of_other_lanes_is_refused():
    _, position = read_some(Lanes(Numbered([3, 50, 50]), 2, W, W, shuffle=False), 1)
    with pytest.raises(UserError, match="has 2 lanes, but there are 3: resume with 2"):
        Lanes(Numbered([3, 50, 50]), 3, W, W).read(position)
    for lengths in ([50], [50, 3, 50]):
        with pytest.raises(UserError, match="the corpus has changed since this run started"):
            Lanes(Numbered(lengths), 2, W, W).read(position)
