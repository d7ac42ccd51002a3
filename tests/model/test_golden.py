"""Equality with outputs recorded from the authors' code: logits, states, loss and gradients."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from block_recurrent.interop.meliad import meliad_name, model_from_meliad

FILES = sorted((pathlib.Path(__file__).parents[1] / "golden").glob("*.npz"))
# Every model with every implementation of the attention. The fused kernels are interpreted on CPU,
# which takes long to compile: one model always, the others with `-m slow`. The gates do not
# change the attention, so the kernels read one model of each configuration in `.ci/run`.
SAME_ATTENTION = "gru_skip", "lstm_skip", "lstm_single"


def marks(name, kernel):
    if kernel == "xla" or name == "fixed_skip":
        return []
    return [pytest.mark.long if name in SAME_ATTENTION else pytest.mark.slow]


RUNS = [
    pytest.param(
        (path, kernel),
        id=f"{path.stem}-{kernel}",
        marks=marks(path.stem, kernel),
    )
    for kernel in ("xla", "pallas")
    for path in FILES
]
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


@pytest.fixture(scope="module", params=RUNS)
def recorded(request):
    """The recording, the model, and its results for a segment: loss, logits, state, gradients."""
    path, kernel = request.param
    golden, model = load(path)
    for layer in model.layers:
        layer.attention.kernel = kernel
        if hasattr(layer, "cell"):
            layer.cell.kernel = kernel
    graphdef, params = nnx.split(model)
    params = nnx.to_pure_dict(params)

    def loss(params, tokens, state, starts):
        logits, state = nnx.merge(graphdef, params)(tokens, state, starts)
        log_probs = jax.nn.log_softmax(logits[:, :-1])
        loss = -jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1).mean()
        return loss, (logits, state)

    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))
    num_blocks = golden["tokens"].shape[2] // model.config.window_length

    def run(segment, state):
        starts = block_starts(golden, segment, num_blocks)
        return compiled(params, jnp.asarray(golden["tokens"][segment]), state, starts)

    return golden, model, run


def test_logits_and_states_of_three_segments(recorded):
    golden, model, run = recorded
    state = model.initial_state(golden["tokens"].shape[1])
    for segment in range(len(golden["tokens"])):
        (_, (logits, state)), _ = run(segment, state)
        np.testing.assert_allclose(logits, golden["logits"][segment], **TOLERANCE)
        for index in model.config.recurrent_indices:
            name = f"recurrent_state/{segment}/transformer{index}/recurrent_state_train"
            np.testing.assert_allclose(state[index].recurrent, golden[name], **TOLERANCE)


def test_loss_and_every_gradient(recorded):
    golden, model, run = recorded
    (value, _), grads = run(0, model.initial_state(golden["tokens"].shape[1]))
    np.testing.assert_allclose(value, golden["loss"], **TOLERANCE)
    seen = set()
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = meliad_name(jax.tree_util.keystr(path, simple=True, separator="/"))
        np.testing.assert_allclose(grad, golden[f"grads/{name}"], **TOLERANCE, err_msg=name)
        seen.add(f"grads/{name}")
    assert seen == {name for name in golden if name.startswith("grads/")}
