"""The activity of recurrent layers, against the model itself and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from block_recurrent import KV
from block_recurrent.analysis.inspection import attention_weights, gate_values, inspect_block
from block_recurrent.analysis.tracing import ARRAYS, gate_names, make_tracer
from block_recurrent.model.gates import Gate
from block_recurrent.ops.dot_product import attend
from close import assert_close
from tiny import (
    TERMS,
    TINY,
    assert_same_numbers,
    forward,
    make_model,
    make_tokens,
    marked,
    split,
    variant_model,
)

W, BLOCKS = TINY.window_length, 6
VARIANTS = marked("fixed_skip", "lstm_dual", "gru_single", "two_recurrent_layers")
VARIANTS += marked("feedback_two_recurrent_layers")


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def inspect_text(model, tokens):
    """The activities in every block, and the state after the text."""
    graphdef, params = split(model)

    def inspect(params, block, state):
        return inspect_block(nnx.merge(graphdef, params), block, state)

    inspect = jax.jit(inspect)
    state, found = model.initial_state(len(tokens)), []
    for start in range(0, tokens.shape[1], W):
        _, activities, state = inspect(params, tokens[:, start : start + W], state)
        found.append(activities)
    return found, state


@pytest.mark.parametrize("variant", VARIANTS)
def test_activities_follow_the_model(variant):
    """Their states equal those of a forward pass over the whole text."""
    model, tokens = variant_model(variant), make_tokens(2, 3 * W)
    found, state = inspect_text(model, tokens)
    _, expected = forward(model, tokens, model.initial_state(2))
    for index in model.config.recurrent_indices:
        last = found[-1][index]
        for states in (state[index].recurrent, last.leaving):
            assert_same_numbers(states, expected[index].recurrent)
        for name in ("states_to_states", "states_to_tokens", "tokens_to_states"):
            weights = getattr(last, name)
            assert weights.min() >= 0
            assert_sum_to_one(weights)
    assert set(found[0]) == set(model.config.recurrent_indices)


def test_activities_are_the_same_with_fused_kernels():
    tokens = make_tokens(2, 2 * W)
    plain, fused = (
        inspect_text(make_model(num_layers=2, attention_kernel=kernel), tokens)
        for kernel in ("xla", "pallas")
    )
    assert_same_numbers(fused, plain)


def assert_sum_to_one(weights):
    """Over the last axis."""
    sums = np.asarray(weights).sum(-1)
    assert_close(sums, np.ones_like(sums), terms=weights.shape[-1])


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_weights_times_values_is_attention():
    queries, keys, values = normal(2, 3, 5, 4), normal(2, 3, 7, 4, seed=1), normal(2, 3, 7, 4)
    weights = attention_weights(queries, KV(keys, values))
    assert_close(weights @ values, attend(queries, keys, values), terms=4 + 7)


def test_states_attend_uniformly_to_the_zeros_before_a_document():
    (activities, *_), _ = inspect_text(variant_model("fixed_skip"), make_tokens(1, W))
    before = np.asarray(activities[1].states_to_tokens[0, :, :, :W])
    assert_close(before, before[..., :1].repeat(W, -1), terms=1)
    assert np.ptp(activities[1].states_to_tokens[0, :, :, W:], axis=-1).min() > 1e-3


@pytest.mark.parametrize("variant", ["fixed_skip", "lstm_dual", "gru_single"])
def test_gates_are_those_of_the_update(variant, monkeypatch):
    """The multipliers equal those that the cell's gates use, in the same order."""
    cell = variant_model(variant).layers[1].cell
    x, attended = normal(2, 6, 32), normal(2, 6, 64)
    used, call = [], Gate.__call__

    def recorded(gate, x, y, u):
        used.append(gate.multipliers(u))
        return call(gate, x, y, u)

    with monkeypatch.context() as patch:
        patch.setattr(Gate, "__call__", recorded)
        cell.update(x, attended)
    found = gate_values(cell, x, attended)
    for values, (keep, take) in zip(found.values(), used, strict=True):
        expected = tuple(np.broadcast_to(each, x.shape) for each in (keep, take))
        assert_close((values.keep, values.take), expected, terms=64)


def test_fixed_gate_is_the_sigmoid_of_its_bias():
    model = make_model(configuration="dual")
    graphdef, params = split(model)
    trace = make_tracer(graphdef, W)(params, np.asarray(make_tokens(1, BLOCKS * W))[0])
    arrays = trace[1]
    assert gate_names(arrays) == ["output_gate", "ffn_gate"]
    for gate in gate_names(arrays):
        g = sigmoid(params["layers"][1]["cell"][gate]["bias"])
        assert_close(arrays[f"{gate}_keep"], np.tile(g, (6, 1)), terms=1)
        assert_close(arrays[f"{gate}_take"], np.tile(1 - g, (6, 1)), terms=1)
        by_block = arrays[f"{gate}_keep_by_block"]
        assert_close(by_block, np.full((BLOCKS, 6), g.mean()), terms=32)
        counts, _ = np.histogram(g, arrays["gate_edges"])
        np.testing.assert_array_equal(arrays[f"{gate}_keep_histogram"], counts * BLOCKS * 6)


def test_a_trace_summarizes_the_activities():
    model, tokens = variant_model("two_recurrent_layers"), make_tokens(1, BLOCKS * W)
    graphdef, params = split(model)
    trace = make_tracer(graphdef, W)(params, np.asarray(tokens)[0])
    found, _ = inspect_text(model, tokens)
    assert set(trace) == {0, 2}
    for index, arrays in trace.items():
        entering, leaving = (
            np.stack([np.asarray(getattr(each[index], name))[0] for each in found])
            for name in ("entering", "leaving")
        )
        initial = np.asarray(model.layers[index].cell.initial[...])
        np.testing.assert_array_equal(entering[0], initial)

        def cosine(a, b):
            return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)

        expected = {
            "norm": np.linalg.norm(leaving, axis=-1),
            "norm_of_change": np.linalg.norm(leaving - entering, axis=-1),
            "cosine_to_previous": cosine(leaving, entering),
            "cosine_to_initial": cosine(leaving, initial),
        }
        for name, values in expected.items():
            assert_close(arrays[name], values, terms=TERMS, name=name)
        assert_sum_to_one(arrays["read_by_tokens"])
        assert arrays["states_to_tokens"].shape == (4, 2, 6, 2 * W)
        last = found[-1][index].states_to_tokens[0]
        assert_same_numbers(arrays["states_to_tokens"][-1], last)
        names = {name.format("output_gate") for name in ARRAYS}
        assert set(arrays) == names
