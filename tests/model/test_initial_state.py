"""The start of a document: the learned initial state, and the gradient that reaches it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tiny import TINY, assert_same_numbers, forward, make_tokens, split, variant_model

W = TINY.window_length


def gradient_of_initial(name: str):
    """A function of `state` and `starts`: the gradient by the initial state, and the state after.

    The gradient is that of a loss, by the initial state of the first recurrent layer.
    """
    model = variant_model(name)
    graphdef, params = split(model)
    tokens = make_tokens(2, 3 * W)

    def loss(params, state, starts):
        logits, after = nnx.merge(graphdef, params)(tokens, state, starts)
        return jnp.square(logits).mean(), after

    compiled = jax.jit(jax.grad(loss, has_aux=True))

    def gradient(state, starts):
        found, after = compiled(params, state, starts)
        return found["layers"][model.config.recurrent_indices[0]]["cell"]["initial"], after

    return gradient


@pytest.mark.parametrize("name", ["fixed_skip", pytest.param("feedback", marks=pytest.mark.slow)])
def test_a_loop_that_starts_with_none_trains_the_initial_state(name):
    """With None, the gradient is the same as with `starts`; a given state gets no gradient."""
    gradient, nowhere = gradient_of_initial(name), jnp.zeros((2, 3), bool)
    found, after = gradient(None, None)
    expected, _ = gradient(variant_model(name).initial_state(2), nowhere.at[:, 0].set(True))
    assert np.abs(found).max() > 0
    assert_same_numbers(found, expected)
    later, _ = gradient(after, nowhere)
    assert not np.any(later)


@pytest.mark.parametrize("name", ["fixed_skip", "sliding_window", "full_attention"])
def test_none_equals_the_initial_state(name):
    model, tokens = variant_model(name), make_tokens(2, 2 * W)
    without, after = forward(model, tokens, None)
    given, after_given = forward(model, tokens, model.initial_state(2))
    np.testing.assert_array_equal(without, given)
    jax.tree.map(np.testing.assert_array_equal, after, after_given)
