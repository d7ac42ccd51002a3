"""Each gate against its formula in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from block_recurrent.model.gates import GATES
from close import assert_close


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def fixed(p, x, y, u):
    g = sigmoid(p["bias"])
    return x * g + y * (1 - g)


def gru(p, x, y, u):
    g = sigmoid(u @ p["gate"]["kernel"] + p["gate"]["bias"] + 1)
    return x * g + y * (1 - g)


def lstm(p, x, y, u):
    f = sigmoid(u @ p["forget"]["kernel"] + p["forget"]["bias"] + 1)
    i = sigmoid(u @ p["input"]["kernel"] + p["input"]["bias"] - 1)
    return x * f + y * i


def selective(p, x, y, u):
    factor = sigmoid(u @ p["gate"]["kernel"] / (4 * np.sqrt(u.shape[-1])) + 3)
    take = (1 - sigmoid(p["bias"])) * factor
    return x * (1 - take) + y * take


FORMULAS = {"fixed": fixed, "gru": gru, "lstm": lstm, "selective": selective}


@pytest.mark.parametrize("name, formula", FORMULAS.items())
def test_gate_equals_its_formula(name, formula):
    rng = np.random.default_rng(0)
    gate = GATES[name](7, 5, rngs=nnx.Rngs(0))
    x, y = (rng.standard_normal((2, 3, 5)).astype(np.float32) for _ in range(2))
    u = rng.standard_normal((2, 3, 7)).astype(np.float32)
    params = nnx.to_pure_dict(nnx.state(gate))
    expected = formula(params, x, y, u)
    assert_close(gate(*map(jnp.asarray, (x, y, u))), expected, terms=10)


def test_unknown_gate_is_refused():
    assert set(GATES) == set(FORMULAS)
