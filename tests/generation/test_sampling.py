"""Sampling: which tokens can be chosen, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from block_recurrent import Sampling, UserError
from block_recurrent.generation.sampling import greedy, keep_top_k, keep_top_p

LOGITS = jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3], [0.97, 0.01, 0.01, 0.01]]))


def kept(logits):
    return np.isfinite(np.asarray(logits)).tolist()


def frequencies(sampling, count=4000):
    """How often each token of the first row is chosen."""
    noise = jax.random.gumbel(jax.random.key(0), (count, 4))
    logits = jnp.tile(LOGITS[:1], (count, 1))
    return np.bincount(np.asarray(sampling(logits, noise)), minlength=4) / count


def test_greedy():
    assert greedy(LOGITS).tolist() == [1, 0]
    assert frequencies(Sampling(temperature=0.0)).tolist() == [0, 1, 0, 0]


def test_top_k():
    assert kept(keep_top_k(LOGITS, 2)) == [[False, True, False, True], [True] * 4]  # ties are kept
    assert kept(keep_top_k(LOGITS, 9)) == [[True] * 4] * 2


@pytest.mark.parametrize(
    "p, first",
    [(0.39, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 2, 3]), (1.0, [0, 1, 2, 3])],
)
def test_top_p(p, first):
    found = kept(keep_top_p(LOGITS, p))
    assert np.flatnonzero(found[0]).tolist() == first
    assert np.flatnonzero(found[1]).tolist() == ([0] if p < 0.97 else [0, 1, 2, 3])


def test_temperature_top_k_and_top_p_together():
    np.testing.assert_allclose(frequencies(Sampling()), [0.1, 0.4, 0.2, 0.3], atol=0.03)
    squared = np.array([0.01, 0.16, 0.04, 0.09]) / 0.30
    np.testing.assert_allclose(frequencies(Sampling(0.5)), squared, atol=0.03)
    three = np.array([0, 4, 2, 3]) / 9
    np.testing.assert_allclose(frequencies(Sampling(top_k=3)), three, atol=0.03)
    two = np.array([0, 4, 0, 3]) / 7
    np.testing.assert_allclose(frequencies(Sampling(top_k=3, top_p=0.75)), two, atol=0.03)


@pytest.mark.parametrize("temperature", [1e-5, 1e-30, 1e-38, 1e-39, 1e-45, 1e-50, 5e-324])
@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.9}])
def test_a_temperature_near_zero_is_greedy(temperature, options):
    """Dividing 100 by 1e-39 would overflow, and float32 rounds 1e-50 to 0."""
    logits = jnp.array([[100.0, 100.1, -100.0, 0.0], [-3.0, -4.0, -2.0, -5.0]])
    noise = jax.random.gumbel(jax.random.key(0), logits.shape)
    sampling = Sampling(temperature, **options)
    assert sampling(logits, noise).tolist() == jax.jit(sampling)(logits, noise).tolist() == [1, 2]


@pytest.mark.parametrize("temperature", [9e-4, 1e-5, 1e-30])
def test_cold_sampling_of_large_logits(temperature):
    """1000 and the next float are equal once they are divided by 1e-6 and rounded."""
    logits = jnp.array([[1000.0, np.nextafter(np.float32(1000), np.float32(2000)), 3e38, -3e38]])
    noise = jnp.array([[1.0, 0.0, 0.0, 0.0]])
    sampling = Sampling(temperature, top_p=0.9)
    assert sampling(logits, noise).tolist() == [2]
    if temperature < 1e-4:
        assert sampling(logits.at[0, 2:].set(0.0), noise).tolist() == [1]


def test_hot_sampling_is_uniform():
    for temperature in (1e30, 1e300):
        np.testing.assert_allclose(frequencies(Sampling(temperature)), [0.25] * 4, atol=0.03)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"temperature": -1.0}, "temperature = -1.0: must be at least 0"),
        ({"temperature": float("nan")}, "temperature = nan: must be finite"),
        ({"temperature": float("inf")}, "temperature = inf: must be finite"),
        ({"temperature": True}, "temperature = True: must be a number"),
        ({"top_k": 2.5}, "top_k = 2.5: must be an integer, or None"),
        ({"top_k": 2.0}, "top_k = 2.0: must be an integer: write 2, or None"),
        ({"top_k": True}, "top_k = True: must be an integer, or None"),
        ({"top_k": 0}, "top_k = 0: must be at least 1, or None"),
        ({"top_p": 0.0}, "top_p = 0.0: must be above 0 and at most 1, or None"),
        ({"top_p": 1.5}, "top_p = 1.5"),
    ],
)
def test_invalid_options(fields, message):
    with pytest.raises(UserError, match=message):
        Sampling(**fields)
