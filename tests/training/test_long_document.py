"""Millions of tokens of one document: all activations and states stay finite.

LONG_DOCUMENT_TOKENS sets the number of tokens.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tiny import make_model, split

TOKENS = int(os.environ.get("LONG_DOCUMENT_TOKENS", 1_000_000))
SEGMENT = 2_048
# Unlike in other tests, running takes far longer than compiling.
OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


@functools.partial(jax.jit, static_argnums=0, compiler_options=OPTIMIZED)
def walk(graphdef, params, state, key):
    """Reads a segment of random tokens. Returns the state after it, and the largest activation."""
    model = nnx.merge(graphdef, params)
    tokens = jax.random.randint(key, (1, SEGMENT), 0, model.config.vocab_size)
    features, state = model.features(tokens, state)
    largest = [jnp.abs(leaf).max() for leaf in jax.tree.leaves((features, state))]
    return state, jnp.stack([each.astype(jnp.float32) for each in largest])


@pytest.mark.slow
@pytest.mark.parametrize(
    "gate, configuration, dtype",
    [
        ("fixed", "skip", "bfloat16"),
        ("lstm", "dual", "float32"),
        pytest.param("fixed", "skip", "float32", marks=pytest.mark.long),
        pytest.param("lstm", "dual", "bfloat16", marks=pytest.mark.long),
    ],
)
def test_a_long_document_stays_finite_and_bounded(gate, configuration, dtype):
    model = make_model(gate=gate, configuration=configuration, dtype=dtype)
    graphdef, params = split(model)
    state, largest = model.initial_state(1), []
    for number in range(-(-TOKENS // SEGMENT)):
        state, found = walk(graphdef, params, state, jax.random.key(number))
        largest.append(found)
    largest = np.asarray(jax.device_get(largest))
    assert np.isfinite(largest).all()
    half = len(largest) // 2  # the mean: the greatest of thousands differs by chance
    assert (largest[half:].mean(axis=0) <= 1.01 * largest[:half].mean(axis=0)).all(), "it grows"
