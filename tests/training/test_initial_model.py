"""A run starts from a smaller model: new parts change nothing at first, and then learn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from block_recurrent.errors import UserError
from block_recurrent.interop.model_file import save_model
from block_recurrent.model.transformer import abstract_model
from block_recurrent.training.initial_model import load_initial_params
from tiny import TINY, forward, make_model

SLIDING = {"recurrent_layers": ()}
LARGER = {
    "fixed": {"recurrent_layers": (-2,)},
    "lstm_dual": {"recurrent_layers": (-2,), "gate": "lstm", "configuration": "dual"},
    "gru_single": {"recurrent_layers": (0, 2), "gate": "gru", "configuration": "single"},
    "feedback": {"recurrent_layers": (1,), "feedback": True},
    "layers": {"num_layers": 5},
    "ngrams": {"ngram_rows": 20},
    "all": {"recurrent_layers": (-1,), "num_layers": 4, "ngram_rows": 20, "num_states": 3},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A sliding-window model, and its file."""
    model = make_model(**SLIDING)
    path = tmp_path_factory.mktemp("small") / "model.safetensors"
    save_model(path, model)
    return model, str(path)


def loaded(path, config):
    graphdef, _ = abstract_model(config)
    params = load_initial_params(path, config, seed=1)
    return graphdef, params


def two_segments(model):
    tokens = jax.random.randint(jax.random.key(0), (2, 32), 3, 260)
    starts = jnp.array([[True, False], [False, True]])
    first, state = forward(model, tokens[:, :16], model.initial_state(2), starts)
    second, _ = forward(model, tokens[:, 16:], state, jnp.zeros_like(starts))
    return jnp.concatenate([first, second], axis=1)


@pytest.mark.parametrize(
    "kind",
    ["all", *(pytest.param(kind, marks=pytest.mark.long) for kind in LARGER if kind != "all")],
)
def test_the_larger_model_computes_the_same(kind, small):
    model, path = small
    config = dataclasses.replace(TINY, **SLIDING | LARGER[kind])
    larger = nnx.merge(*loaded(path, config))
    np.testing.assert_allclose(two_segments(larger), two_segments(model), atol=1e-5)


def test_new_parts_learn_after_the_first_update(small):
    _, path = small
    config = dataclasses.replace(TINY, **SLIDING | LARGER["all"])
    graphdef, params = loaded(path, config)

    @jax.jit
    def gradient(params):
        def loss(params):
            return jnp.square(two_segments(nnx.merge(graphdef, params)) - 1).mean()

        return jax.grad(loss)(params)

    grads = gradient(params)
    recurrent = grads["layers"][3]
    outputs, own = recurrent["attention"]["output"]["kernel"], config.num_heads * config.head_size
    assert not any(map(jnp.any, jax.tree.leaves(recurrent["cell"])))
    assert jnp.any(outputs[:own]) and jnp.any(outputs[own:])
    assert jnp.any(recurrent["ffn"]["output"]["kernel"]) and jnp.any(grads["ngrams"]["embedding"])
    params = jax.tree.map(lambda leaf, grad: leaf - 0.1 * grad, params, grads)
    cell = gradient(params)["layers"][3]["cell"]
    assert all(map(jnp.any, jax.tree.leaves(cell)))


@pytest.mark.parametrize(
    "model, run, message",
    [
        ({}, {"gate": "lstm"}, "gate = 'fixed', but this run has 'lstm': set Block"),
        ({}, SLIDING, r"recurrent_layers = \(1,\), but this run has \(\)"),
        ({}, {"num_layers": 4}, r"= \(1,\), but this run has \(2,\): set .*layers = \(1,\)"),
        ({}, {"num_layers": 2, "recurrent_layers": (1,)}, "num_layers = 3, but this run has 2"),
        ({"ngram_rows": 20}, {}, "ngram_rows = 20, but this run has 0"),
        (SLIDING, {"mlp_dim": 64}, "mlp_dim = 48, but this run has 64"),
        (SLIDING, {"positions": "rope"}, "positions = 't5', but this run has 'rope'"),
    ],
)
def test_what_is_no_larger_model_is_refused(model, run, message, tmp_path):
    save_model(tmp_path / "model", make_model(**model))
    with pytest.raises(UserError, match=message):
        load_initial_params(str(tmp_path / "model"), dataclasses.replace(TINY, **run), seed=0)
