"""Loss by distance and memory worth, against models that are run by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from block_recurrent.config.device_options import MeshConfig
from block_recurrent.data.documents import ByteDocuments
from block_recurrent.evaluation.evaluator import Evaluator
from block_recurrent.evaluation.loss_profile import (
    bin_starts,
    distance_table,
    distances,
    make_profile,
)
from block_recurrent.evaluation.memory_worth import MEMORIES, MemoryProbe
from block_recurrent.model.losses import TokenScores
from block_recurrent.parallel.sharding import Layout, make_mesh
from tiny import TINY, assert_same_numbers, forward, make_model, split

W, SEGMENT = TINY.window_length, 2 * TINY.window_length
LENGTHS = (99, 83, 70, 41, 8, 1)


def make_documents():
    rng = np.random.default_rng(0)
    return ByteDocuments({str(n): rng.integers(97, 123, n, np.uint8).tobytes() for n in LENGTHS})


def make_evaluator(model, rows=3, segment=SEGMENT):
    graphdef, params = split(model)
    layout = Layout(make_mesh(MeshConfig(), TINY, rows, jax.devices()[:1]))
    return Evaluator(graphdef, make_documents(), W, rows, segment, layout), params


def token_by_token_scores(model, tokens, memory="carried", other=None):
    """Nats of each token of one document, the states after each segment, and correct predictions.

    `other`: the states to use at each segment, for 'swapped'.
    """
    length = -(-len(tokens) // SEGMENT) * SEGMENT
    padding = np.zeros(length - len(tokens), np.int64)
    inputs = np.concatenate([[0], tokens[:-1], padding]).astype(np.int32)
    targets = np.concatenate([tokens, padding])
    state, initial = model.initial_state(1), model.initial_state(1)
    nats, states, correct = [], [], []
    for number, start in enumerate(range(0, length, SEGMENT)):
        if number and memory != "carried":
            new = initial[1].recurrent if memory == "cleared" else other[number - 1]
            state = (state[0], state[1]._replace(recurrent=new), state[2])
        segment = slice(start, start + SEGMENT)
        logits, state = forward(model, jnp.asarray(inputs[None, segment]), state)
        states.append(state[1].recurrent)
        nats.append(-jax.nn.log_softmax(logits[0])[np.arange(SEGMENT), targets[segment]])
        correct.append(logits[0].argmax(axis=-1) == targets[segment])
    return np.concatenate(nats)[: len(tokens)], states, np.concatenate(correct)[: len(tokens)]


def assert_complete(progress, what, total):
    """Asserts that the tokens read go from 0 to `total`."""
    assert {(each, number) for each, _, number in progress} == {(what, total)}
    read = [done for _, done, _ in progress]
    assert len(read) > 2 and read[0] == 0 and read[-1] == total
    assert all(np.diff(read) > 0)


@pytest.fixture(scope="module")
def model():
    return make_model()


def test_loss_by_distance_equals_that_of_separate_documents(model):
    evaluator, params = make_evaluator(model)
    progress = []
    score = evaluator(params, lambda *numbers: progress.append(numbers))
    assert_complete(progress, "evaluating", evaluator.documents.num_tokens)
    expected_nats, expected_tokens, correct = np.zeros((3, 32))
    documents = evaluator.documents
    for index, length in enumerate(documents.lengths):
        nats, _, right = token_by_token_scores(model, documents.tokens(index, 0, int(length)))
        bins = [0 if place == 0 else 1 + int(math.log2(place)) for place in range(length)]
        np.add.at(expected_nats, bins, nats)
        np.add.at(expected_tokens, bins, 1)
        np.add.at(correct, bins, right)
    np.testing.assert_array_equal(score.profile.tokens, expected_tokens)
    assert_same_numbers(score.profile.nats, expected_nats)
    np.testing.assert_array_equal(score.profile.correct, correct)
    assert score.metrics()["accuracy"] == pytest.approx(correct.sum() / score.num_tokens)
    assert score.num_tokens == documents.num_tokens
    assert_same_numbers(score.nats, expected_nats.sum())
    metrics = score.metrics()
    bits = expected_nats.sum() / math.log(2)
    assert_same_numbers(metrics["bits_per_character"], bits / documents.num_characters)
    uncounted = dataclasses.replace(score, num_characters=None).metrics()
    assert metrics.keys() - uncounted.keys() == {"bits_per_character"}
    lossy = dataclasses.replace(score, text_lost=0.25).metrics()
    assert lossy == metrics | {"text_lost": 0.25} and "text_lost" not in metrics


def test_distances_and_bins():
    starts = jnp.array([[False, True, False], [False, False, False], [True, False, True]])
    found = distances(starts, jnp.array([6, 4, 9]), 2)
    expected = [[6, 7, 0, 1, 2, 3], [4, 5, 6, 7, 8, 9], [0, 1, 2, 3, 0, 1]]
    np.testing.assert_array_equal(found, expected)
    edges = bin_starts()
    for distance in (0, 1, 2, 3, 4, 1023, 1024, 2**31 - 1):
        one, at = jnp.ones((1, 1)), jnp.full((1, 1), distance, jnp.int32)
        profile = make_profile(TokenScores(one, one), one, at, one[0], jnp.array([True]))
        for sums in profile:
            assert np.flatnonzero(sums) == np.searchsorted(edges, distance, "right") - 1


@pytest.mark.parametrize("segment", [SEGMENT, 3 * SEGMENT])
def test_each_memory_equals_the_model_run_by_hand(model, segment):
    """For any segment length of the evaluator. Six documents in two rows, one after the other."""
    evaluator, params = make_evaluator(model, 2, segment)
    found = MemoryProbe(evaluator, SEGMENT)(params, MEMORIES)
    documents = evaluator.documents
    tokens = [documents.tokens(i, 0, 10**6) for i in range(len(documents.lengths))]
    for memory in ("carried", "cleared"):
        nats = [token_by_token_scores(model, each, memory)[0].sum() for each in tokens]
        assert_same_numbers(found[memory].nats.sum(), sum(nats))
    for profile in found.values():
        np.testing.assert_array_equal(profile.tokens, found["carried"].tokens)
    assert found["cleared"].bits_per_token != pytest.approx(found["carried"].bits_per_token, 1e-4)


def test_size_of_the_states_equals_the_model_run_by_hand(model):
    """Only after segments whose last block has tokens."""
    evaluator, params = make_evaluator(model, 2)
    found = MemoryProbe(evaluator, SEGMENT)(params, MEMORIES[:1])["carried"]
    documents, squares, counts = evaluator.documents, np.zeros(32), np.zeros(32)
    for index, length in enumerate(documents.lengths):
        _, states, _ = token_by_token_scores(model, documents.tokens(index, 0, 10**6))
        for end, state in zip(range(SEGMENT, 10**6, SEGMENT), states, strict=False):
            if length > end - W:
                bin = np.searchsorted(bin_starts(), end - 1, "right") - 1
                squares[bin] += np.square(state).mean()
                counts[bin] += 1
    np.testing.assert_array_equal(found.states, counts)
    assert_same_numbers(found.squares, squares)
    table = distance_table({"carried": found})["state_rms"]["carried"]
    filled = np.flatnonzero(counts)
    assert [bin for bin, rms in enumerate(table) if rms is not None] == filled.tolist()
    rms = np.sqrt(squares[filled] / counts[filled])
    assert_same_numbers(np.array([table[bin] for bin in filled]), rms)


def test_without_states_there_is_no_size():
    evaluator, params = make_evaluator(make_model(recurrent_layers=()))
    assert "state_rms" not in distance_table({"carried": evaluator(params).profile})


def test_the_other_document_is_the_row_before(model):
    """Two documents in two rows, each with the states of the other."""
    evaluator, params = make_evaluator(model, 2)
    evaluator.documents = evaluator.documents.select([0, 1])
    found = MemoryProbe(evaluator, SEGMENT)(params, MEMORIES)
    tokens = [evaluator.documents.tokens(i, 0, 10**6) for i in range(2)]
    states = [token_by_token_scores(model, each)[1] for each in tokens]
    # The second has 6 segments, the first 7: it keeps the last state of the second.
    assert [len(each) for each in states] == [7, 6]
    swapped = [
        token_by_token_scores(model, tokens[i], "swapped", states[1 - i])[0].sum() for i in range(2)
    ]
    assert_same_numbers(found["swapped"].nats.sum(), sum(swapped))
    assert found["swapped"].bits_per_token != pytest.approx(found["carried"].bits_per_token, 1e-4)


def test_an_unused_state_has_no_memory_worth(model):
    """Exactly zero, not up to rounding. A state that is used has a worth above rounding."""
    evaluator, params = make_evaluator(model)
    probe = MemoryProbe(evaluator, SEGMENT)
    width = TINY.num_heads * TINY.head_size
    kernel = params["layers"][1]["attention"]["output"]["kernel"]
    unused = jax.tree.map(lambda leaf: leaf, params)
    unused["layers"][1]["attention"]["output"]["kernel"] = kernel.at[width:].set(0)
    progress = []
    assert probe.memory_worth(unused, lambda *numbers: progress.append(numbers)) == 0
    assert_complete(progress, "memory worth", evaluator.documents.num_tokens)
    some = probe._tokens_to_read(2)
    progress.clear()
    probe(unused, MEMORIES[:2], 2, lambda *numbers: progress.append(numbers))
    assert_complete(progress, "memory worth", some)
    assert 3 * SEGMENT < some < evaluator.documents.num_tokens
    assert abs(probe.memory_worth(params)) > 1e-4
    found = probe(unused, MEMORIES)
    assert found["cleared"].nats.tolist() == found["carried"].nats.tolist()
    assert found["swapped"].nats.tolist() == found["carried"].nats.tolist()


def test_all_recurrent_layers_are_cleared():
    model = make_model(recurrent_layers=(0, 2), feedback=True)
    evaluator, params = make_evaluator(model)
    probe = MemoryProbe(evaluator, SEGMENT)
    state = probe.clear(params, evaluator.initial(params))
    initial = nnx.merge(*nnx.split(model)).initial_state(3)
    for layer, first in zip(state.model, initial, strict=True):
        assert (layer.recurrent is None) == (first.recurrent is None)
        if first.recurrent is not None:
            np.testing.assert_array_equal(layer.recurrent, first.recurrent)
    assert probe.memory_worth(params) != 0
