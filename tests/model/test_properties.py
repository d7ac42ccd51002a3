"""Windows, starts, lanes and stores against slow references, on inputs from Hypothesis.

The inputs are the same in every run (derandomize), so no test fails by chance.
"""

import functools
import itertools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from block_recurrent import SlidingWindowAttention
from block_recurrent.data.lanes import Lanes
from block_recurrent.data.mixture import Mixture
from block_recurrent.data.prepare.store_writer import ShardWriter, finish_store
from block_recurrent.data.store import open_stores, verify
from block_recurrent.data.vocabularies import ByteVocabulary
from close import assert_close
from slow_attention import slow_attention
from slow_lanes import Numbered, order_of, read_all, read_some, slow_lanes
from slow_lanes import W as LANES_W
from tiny import TINY, assert_same_numbers, forward, variant_model


def examples(number: int):
    return settings(derandomize=True, deadline=None, database=None, max_examples=number)


def lengths_around(window: int, huge: int):
    """Lengths of documents at the edges of a window, and others."""
    edges = st.sampled_from([0, 1, window - 1, window, window + 1, 2 * window])
    return st.one_of(edges, st.integers(0, 5 * window), st.just(huge))


# Windows and starts

W, BLOCKS = 4, 6
SEGMENTS = st.lists(st.sampled_from([1, 2, 3]), min_size=BLOCKS, max_size=BLOCKS).map(
    lambda blocks: [n for n, end in zip(blocks, np.cumsum(blocks), strict=True) if end <= BLOCKS]
)
STARTS = st.lists(
    st.lists(st.booleans(), min_size=BLOCKS, max_size=BLOCKS), min_size=2, max_size=2
).map(np.array)


@functools.cache
def attention() -> SlidingWindowAttention:
    module = SlidingWindowAttention(8, 2, 4, W, rngs=nnx.Rngs(0))
    module.scale[...] = jnp.array([3.0, -2.0])
    return module


@jax.jit
def attend(x, cache, starts):
    return attention()(x, cache, starts)


@examples(60)
@given(segments=SEGMENTS, starts=STARTS, seed=st.integers(0, 2**16))
def test_window_attention_over_documents(segments, starts, seed):
    """For any cut of a text into segments, each document sees W zeros and then itself."""
    blocks = sum(segments)
    x = np.random.default_rng(seed).standard_normal((2, blocks * W, 8)).astype(np.float32)
    cache, found, first = attention().initial_cache(2), [], 0
    for number in segments:
        places = slice(first * W, (first + number) * W)
        y, cache = attend(x[:, places], cache, starts[:, first : first + number])
        found.append(np.asarray(y))
        first += number
    found = np.concatenate(found, axis=1)
    for row in range(2):
        begins = [0, *(block for block in range(1, blocks) if starts[row, block]), blocks]
        for begin, end in zip(begins, begins[1:], strict=False):
            document = slice(begin * W, end * W)
            want = slow_attention(attention(), x[row, document])
            assert_close(found[row, document], want, terms=100)


MODEL_W = TINY.window_length
HUGE = 12 * MODEL_W + 3


def packed_losses(name, lanes) -> dict[int, float]:
    """Maximum logit by target. All targets of `Numbered` are different, and identify the token."""
    model, found = variant_model(name), {}
    state = model.initial_state(lanes.batch_size)
    for batch in read_all(lanes):
        logits, state = forward(model, batch.inputs % 260, state, batch.starts)
        peaks = np.asarray(logits.max(axis=-1))
        real = batch.weights == 1
        found |= dict(zip(batch.targets[real].tolist(), peaks[real].tolist(), strict=True))
    return found


@pytest.mark.parametrize("name", ["fixed_skip", pytest.param("lstm_dual", marks=pytest.mark.slow)])
@examples(8)
@given(lengths=st.lists(lengths_around(MODEL_W, HUGE), min_size=1, max_size=6).filter(any))
def test_packed_documents_do_not_see_each_other(name, lengths):
    """In lanes, each document is predicted as if it were alone."""
    documents = Numbered(lengths)

    def lanes(some, rows):
        return Lanes(some, rows, 2 * MODEL_W, MODEL_W, shuffle=False, repeat=False)

    together = packed_losses(name, lanes(documents, 2))
    assert together.keys() == set(range(1, sum(lengths) + 1))
    for index, length in enumerate(lengths):
        if length:
            alone = packed_losses(name, lanes(One(documents, index), 1))
            found = np.array([together[token] for token in alone])
            assert_same_numbers(found, np.array(list(alone.values())))


class One:
    """One document of a collection, with the same tokens."""

    def __init__(self, documents, index):
        self.vocabulary, self.names, self.fingerprint = documents.vocabulary, ["one"], 1
        self.lengths = documents.lengths[index : index + 1]
        self.num_tokens = self.num_bytes = self.num_words = int(self.lengths[0])
        self.num_characters, self.text_lost = None, 0.0
        self.tokens = lambda _, start, stop: documents.tokens(index, start, stop)
        self.loss_weights = lambda _, start, stop: 1


# Lanes

LENGTHS = st.lists(lengths_around(LANES_W, 403), min_size=1, max_size=12).filter(any)
ROWS, SEGMENT = st.integers(1, 6), st.integers(1, 7).map(lambda blocks: blocks * LANES_W)


def rows_of(batch) -> list:
    return [[array[row].tolist() for array in batch[:4]] for row in range(len(batch.inputs))]


@examples(40)
@given(lengths=LENGTHS, batch_size=ROWS, segment=SEGMENT, seed=st.integers(0, 2**31))
def test_lanes_equal_a_slow_reference(lengths, batch_size, segment, seed):
    """The reference works block by block and token by token. Checks two epochs."""
    lanes = Lanes(Numbered(lengths), batch_size, segment, LANES_W, seed=seed)
    with_tokens = [index for index, length in enumerate(lengths) if length]

    def queue():
        for epoch in itertools.count():
            order = order_of(lanes, epoch)
            assert sorted(order) == with_tokens, "an epoch has each once"
            yield from order

    slow = slow_lanes(lanes.documents.sources[0], queue(), batch_size, segment)
    position, number = lanes.initial_position(), 0
    while int(position.epoch[0]) < 2 and number < 100:
        batch, position = lanes.read(position)
        number += 1
        want = [[*map(list, columns), starts] for columns, starts in next(slow)]
        assert rows_of(batch) == want


@examples(60)
@given(
    sources=st.lists(
        st.tuples(LENGTHS, st.floats(0.1, 10, allow_nan=False)), min_size=1, max_size=3
    ),
    batch_size=ROWS,
    segment=SEGMENT,
    shuffle=st.booleans(),
)
def test_every_token_of_a_mixture_is_a_target_once(sources, batch_size, segment, shuffle):
    lengths, weights = zip(*sources, strict=True)
    documents = Mixture([Numbered(each) for each in lengths], weights)
    batches = read_all(
        Lanes(documents, batch_size, segment, LANES_W, shuffle=shuffle, repeat=False)
    )
    targets = np.concatenate([batch.targets[batch.weights == 1] for batch in batches])
    want = [token for each in lengths for token in range(1, sum(each) + 1)]
    assert sorted(targets.tolist()) == sorted(want)


@examples(30)
@given(
    lengths=LENGTHS,
    hosts=st.sampled_from([1, 2, 3]),
    rows=st.integers(1, 2),
    turns=st.integers(1, 3),
    segment=SEGMENT,
    before=st.integers(0, 12),
)
def test_lanes_resume_from_any_position_on_any_number_of_hosts(
    lengths, hosts, rows, turns, segment, before
):
    def lanes():
        size = hosts * rows
        return Lanes(Numbered(lengths), size, segment, LANES_W, seed=7, num_lanes=size * turns)

    straight, end = read_some(lanes(), before + 3)
    _, position = read_some(lanes(), before)
    readers = [lanes() for _ in range(hosts)]
    for want in straight[before:]:
        parts = [
            reader.read(position, slice(host * rows, (host + 1) * rows))
            for host, reader in enumerate(readers)
        ]
        assert [row for batch, _ in parts for row in rows_of(batch)] == rows_of(want)
        position = parts[0][1]
    for found, wanted in zip(position, end, strict=True):
        np.testing.assert_array_equal(found, wanted)


# Stores

DOCUMENT = st.one_of(
    st.sampled_from([b"", b"a", b"\x00\xff", b"x" * 70_000]), st.binary(max_size=300)
)


@examples(40)
@given(
    shards=st.lists(st.lists(DOCUMENT, max_size=5), min_size=1, max_size=3),
    cut=st.integers(0, 300),
    start=st.integers(0, 400),
    count=st.integers(1, 400),
)
def test_a_store_returns_what_was_written(shards, cut, start, count):
    vocabulary = ByteVocabulary()
    with tempfile.TemporaryDirectory() as folder:
        for number, documents in enumerate(shards):
            with ShardWriter(Path(folder), "train", number, 259) as writer:
                for index, raw in enumerate(documents):
                    for piece in (raw[:cut], raw[cut:]):
                        writer.add(vocabulary.encode(piece), piece)
                    writer.add(np.array([1]), b"")
                    writer.end_document(f"{number}/{index} é\n")
        described = {"kind": "bytes", "size": 259, "eos": 1}
        finish_store(Path(folder), task="test", vocabulary=described, shards={"train": len(shards)})
        assert list(verify(folder)) == []
        ((store, _),) = open_stores(folder)["train"]
        texts = [raw for documents in shards for raw in documents]
        assert store.lengths.tolist() == [len(raw) + 1 for raw in texts]
        assert store.num_bytes == sum(map(len, texts))
        assert store.num_words == sum(len(raw.split()) for raw in texts)
        assert len(store.names) == len(texts)
        for index, raw in enumerate(texts):
            tokens = [*(byte + 3 for byte in raw), 1]
            assert store.tokens(index, 0, len(tokens)).tolist() == tokens
            assert store.tokens(index, start, start + count).tolist() == tokens[start:][:count]
