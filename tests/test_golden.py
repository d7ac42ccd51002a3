"""Every output recorded from the authors' code: logits, states, loss and gradients."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from block_recurrent.interop import meliad_name, model_from_meliad

FILES = sorted((pathlib.Path(__file__).parent / "golden").glob("*.npz"))
TOLERANCE = dict(atol=1e-4, rtol=1e-4)


def load(path):
    with np.load(path) as file:
        golden = dict(file)
    config = json.loads(str(golden["config"]))
    params = {k.removeprefix("params/"): v for k, v in golden.items() if k.startswith("params/")}
    return golden, model_from_meliad(config, params)


def block_starts(golden, segment, num_blocks):
    starts = np.zeros((golden["starts"].shape[1], num_blocks), bool)
    starts[:, 0] = golden["starts"][segment]
    return jnp.asarray(starts)


def test_nine_models_are_recorded():
    assert len(FILES) == 9


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def recorded(request):
    return load(request.param)


def test_logits_and_states_of_three_segments(recorded):
    golden, model = recorded
    state = model.initial_state(golden["tokens"].shape[1])
    step = jax.jit(lambda tokens, state, starts: model(tokens, state, starts))
    num_blocks = golden["tokens"].shape[2] // model.config.window_length
    for segment, tokens in enumerate(golden["tokens"]):
        logits, state = step(tokens, state, block_starts(golden, segment, num_blocks))
        np.testing.assert_allclose(logits, golden["logits"][segment], **TOLERANCE)
        for index in model.config.recurrent_indices:
            name = f"recurrent_state/{segment}/transformer{index}/recurrent_state_train"
            np.testing.assert_allclose(state[index].recurrent, golden[name], **TOLERANCE)


def test_loss_and_every_gradient(recorded):
    golden, model = recorded
    graphdef, params = nnx.split(model)
    tokens = jnp.asarray(golden["tokens"][0])
    starts = block_starts(golden, 0, tokens.shape[1] // model.config.window_length)
    state = model.initial_state(tokens.shape[0])

    def loss(params):
        logits, _ = nnx.merge(graphdef, params)(tokens, state, starts)
        log_probs = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1).mean()

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, golden["loss"], **TOLERANCE)
    seen = set()
    for path, grad in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(grads)):
        name = meliad_name(jax.tree_util.keystr(path, simple=True, separator="/"))
        np.testing.assert_allclose(grad, golden[f"grads/{name}"], **TOLERANCE, err_msg=name)
        seen.add(f"grads/{name}")
    assert seen == {name for name in golden if name.startswith("grads/")}
