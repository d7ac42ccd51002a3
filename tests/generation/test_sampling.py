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


@pytest.mark.parametrize("temperature", [1e-30, 1e-39, 1e-50])
@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.9}])
def test_a_temperature_near_zero_is_greedy(temperature, options):
    """Dividing 100 by 1e-39 would overflow, and float32 rounds 1e-50 to 0."""
    logits = jnp.array([[100.0, 100.1, -100.0, 0.0], [-3.0, -4.0, -2.0, -5.0]])
    noise = jax.random.gumbel(jax.random.key(0), logits.shape)
    assert Sampling(temperature, **options)(logits, noise).tolist() == [1, 2]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"temperature": -1.0}, "temperature = -1.0: must be at least 0"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_k": 0}, "top_k = 0: must be at least 1, or None"),
        ({"top_p": 0.0}, "top_p = 0.0: must be above 0 and at most 1, or None"),
        ({"top_p": 1.5}, "top_p = 1.5"),
    ],
)
def test_invalid_options(fields, message):
    with pytest.raises(UserError, match=message):
        Sampling(**fields)
