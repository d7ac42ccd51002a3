"""Reading with several memories, against the model itself and against a trace."""

import jax
import numpy as np
import pytest

from block_recurrent.analysis.reading import Reader
from block_recurrent.analysis.tracing import make_tracer
from close import assert_close
from tiny import TERMS, TINY, forward, split, variant_model

W = TINY.window_length
LENGTH, OTHER_LENGTH = 5 * W - 3, 2 * W + 1  # the last block is not complete, the other text ends
VARIANTS = [pytest.param("modern", marks=pytest.mark.slow), "feedback_two_recurrent_layers"]


def text(length, seed):
    return np.random.default_rng(seed).integers(3, 259, length).astype(np.int32)


def shifted(tokens):
    blocks = np.concatenate([[0], tokens[:-1]])
    blocks = np.pad(blocks, (0, -len(blocks) % W))
    return blocks.reshape(-1, 1, W).astype(np.int32)


def recurrent(state):
    return [layer.recurrent for layer in state]


def with_recurrent(state, new):
    return tuple(layer._replace(recurrent=each) for layer, each in zip(state, new, strict=True))


def entering_states(model, tokens):
    """The recurrent states that enter each whole block, and those after the last one."""
    state, found = model.initial_state(1), [recurrent(model.initial_state(1))]
    for block in shifted(tokens)[: len(tokens) // W]:
        _, state = forward(model, block, state)
        found.append(recurrent(state))
    return found


def losses(model, tokens, entering=None):
    """Bits of each token, with other recurrent states at the beginning of every block."""
    state, found = model.initial_state(1), []
    for index, block in enumerate(shifted(tokens)):
        if entering is not None:
            state = with_recurrent(state, entering[min(index, len(entering) - 1)])
        logits, state = forward(model, block, state)
        found.append(jax.nn.log_softmax(logits)[0])
    log_probs = np.concatenate(found)[: len(tokens)]
    return -log_probs[np.arange(len(tokens)), tokens] / np.log(2), np.exp(log_probs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_are_those_of_the_model_with_each_memory(variant):
    model = variant_model(variant)
    tokens, other = text(LENGTH, 1), text(OTHER_LENGTH, 2)
    reading = Reader(model)(tokens, other)
    carried, probabilities = losses(model, tokens)
    cleared, _ = losses(model, tokens, [recurrent(model.initial_state(1))])
    swapped, _ = losses(model, tokens, entering_states(model, other))
    assert list(reading.bits) == ["carried", "cleared", "swapped"]
    expected = np.stack([carried, cleared, swapped])
    assert_close(np.stack(list(reading.bits.values())), expected, terms=TERMS)
    assert np.abs(expected[1:] - carried).max(axis=1).min() > 1e-3, "the memory matters"
    best = np.sort(probabilities, axis=1)[:, :-6:-1]
    assert_close(reading.probabilities, best, terms=TERMS)
    chosen = np.take_along_axis(probabilities, reading.predicted, axis=1)
    assert_close(reading.probabilities, chosen, terms=TERMS)


def test_layers_are_those_of_a_trace():
    model = variant_model("lstm_dual")
    tokens, whole = text(LENGTH, 3), LENGTH // W
    read = []
    reading = Reader(model)(tokens, after_block=read.append)
    assert read == [8, 16, 24, 32, LENGTH] and list(reading.bits) == ["carried", "cleared"]
    graphdef, params = split(model)
    trace = make_tracer(graphdef, W)(params, shifted(tokens)[:whole].reshape(-1))
    assert list(reading.layers) == list(trace)
    layer, arrays = reading.layers[1], trace[1]
    change = arrays["norm_of_change"] / arrays["norm"]
    assert_close(layer.change[:whole], change, terms=TERMS)
    assert not layer.change[whole:].any(), "an incomplete block changes no state"
    assert_close(layer.attention[:whole], arrays["read_by_tokens"], terms=TERMS)
    assert_close(layer.attention.sum(axis=1), np.ones(whole + 1), terms=TERMS)
    last = arrays["tokens_to_states"][-1].mean(axis=0)
    block = slice((whole - 1) * W, whole * W)
    assert_close(layer.weights[block], -np.sort(-last, axis=1), terms=TERMS)
    found = np.take_along_axis(last, layer.states[block], axis=1)
    assert_close(layer.weights[block], found, terms=TERMS)
    assert ((0 < layer.keep) & (layer.keep < 1)).all()
