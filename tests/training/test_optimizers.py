"""Schedules against their formulas, and optimizers against a few lines of NumPy."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from block_recurrent import UserError
from block_recurrent.config.train_options import OptimizerConfig
from block_recurrent.model.transformer import abstract_model
from block_recurrent.training.optimizers import is_kernel, make_optimizer
from close import assert_close
from tiny import TINY, VARIANTS

STEADY = {"schedule": "constant", "warmup_steps": 0}


def rate(step: int, decay_steps: int = 100, **fields) -> float:
    """The learning rate of update number `step`, from 1."""
    _, schedule = make_optimizer(OptimizerConfig(decay_steps=decay_steps, **fields))
    return float(schedule(step - 1))


def after(config: OptimizerConfig, params, *gradients):
    """The parameters after one update with each of the gradients."""
    optimizer, _ = make_optimizer(config)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = jax.jit(optimizer.update)(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def numpy_adafactor(p, gradients, rate, momentum):
    """Shazeer & Stern 2018, algorithms 4 and 5, with an average of the updates (FACTS.md)."""
    row = column = full = mean = 0.0
    for t, g in enumerate(gradients, 1):
        decay, square = 1 - t**-0.8, g**2 + 1e-30
        if min(p.shape) >= 128 and p.ndim == 2:
            row = decay * row + (1 - decay) * square.mean(1)
            column = decay * column + (1 - decay) * square.mean(0)
            u = g / np.sqrt(np.outer(row, column) / row.mean())
        else:
            full = decay * full + (1 - decay) * square
            u = g / np.sqrt(full)
        u = u / max(1, np.sqrt((u**2).mean()))
        u = u * rate * max(1e-3, np.sqrt((p**2).mean()))
        mean = momentum * mean + (1 - momentum) * u
        p = p - mean
    return p


@pytest.mark.parametrize("schedule", ["rsqrt", "cosine", "linear", "constant"])
def test_warm_up_is_linear_and_starts_above_zero(schedule):
    for step in (1, 2, 5, 10):
        value = rate(step, schedule=schedule, learning_rate=3.0, warmup_steps=10)
        assert math.isclose(value, 3.0 * step / 10, rel_tol=1e-5), step


def test_rsqrt():
    for step in (1000, 1001, 4000, 500_000):
        assert math.isclose(rate(step, learning_rate=1000**-0.5), step**-0.5, rel_tol=1e-5), step


def test_cosine():
    fields = {"schedule": "cosine", "warmup_steps": 20, "learning_rate": 2.0, "end_fraction": 0.1}
    for step in (20, 40, 60, 99, 100, 130):
        turn = math.cos(math.pi * (min(step, 100) - 20) / 80)
        assert math.isclose(rate(step, **fields), 0.2 + 0.9 * (1 + turn), rel_tol=1e-5), step


def test_linear():
    fields = {"schedule": "linear", "warmup_steps": 20, "learning_rate": 2.0, "end_fraction": 0.0}
    rates = np.array([rate(step, **fields) for step in (20, 60, 90)])
    assert_close(rates, np.array([2.0, 1.0, 0.25]), terms=4)
    assert rate(100, **fields) == rate(150, **fields) == 0.0


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_decaying_schedules_need_decay_steps(schedule):
    with pytest.raises(UserError, match=f"schedule = '{schedule}' needs optimizer.decay_steps"):
        make_optimizer(OptimizerConfig(schedule=schedule))


@pytest.mark.parametrize("schedule", ["rsqrt", "cosine", "linear", "constant"])
def test_warm_up_may_be_longer_than_the_run(schedule):
    """For tests and trial runs, users shorten a run without changing the warm-up."""
    rates = [rate(step, decay_steps=5, schedule=schedule) for step in range(1, 7)]
    assert rates == sorted(rates) and 0 < rates[0]


@pytest.mark.parametrize("schedule", ["rsqrt", "cosine", "linear", "constant"])
@pytest.mark.parametrize("decay_steps", [1, 2, 100])
def test_without_a_warm_up_the_first_step_has_the_peak(schedule, decay_steps):
    for warmup_steps in (0, 1):
        fields = {"schedule": schedule, "warmup_steps": warmup_steps, "learning_rate": 2.0}
        rates = [rate(step, decay_steps, **fields) for step in (1, 2, 100)]
        assert rates[0] == 2.0
        second = {"rsqrt": 2.0 / math.sqrt(2), "constant": 2.0}
        if schedule in second:
            assert math.isclose(rates[1], second[schedule], rel_tol=1e-6)
        else:
            assert math.isclose(rates[2], 0.2, rel_tol=1e-5), "the end, at the last step"


def test_schedule_works_on_traced_counts():
    _, schedule = make_optimizer(OptimizerConfig(schedule="cosine", warmup_steps=5, decay_steps=50))
    counts = jnp.arange(60)
    expected = np.array([float(schedule(int(c))) for c in counts])
    assert_close(jax.jit(jax.vmap(schedule))(counts), expected, terms=4)


@pytest.mark.parametrize("shape", [(7,), (5, 6), (130, 128)])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_adafactor(shape, momentum):
    rng = np.random.default_rng(0)
    p, gradients = rng.normal(size=shape), [rng.normal(size=shape) * s for s in (1, 30, 0.1, 5)]
    config = OptimizerConfig(learning_rate=0.05, beta1=momentum, **STEADY)
    actual = after(config, jnp.asarray(p, jnp.float32), *(jnp.asarray(g) for g in gradients))
    assert_close(actual, numpy_adafactor(p, gradients, 0.05, momentum), terms=16)


def test_adafactor_steps_in_proportion_to_the_parameter():
    config = OptimizerConfig(learning_rate=0.05, beta1=0.0, **STEADY)
    gradient = jnp.array([1.0, -1.0, 1.0, 1.0])

    def step(p):
        return np.abs(after(config, p, gradient) - p)

    ones = jnp.ones(4)
    for size, expected in ((1, 0.05), (8, 0.4), (0, 0.05e-3)):
        assert_close(step(size * ones), np.full(4, expected), terms=16, scale=size)


def test_adamw():
    config = OptimizerConfig(name="adamw", learning_rate=0.05, beta1=0.8, beta2=0.9, **STEADY)
    p, gradients = np.array([1.0, 2.0]), [np.array([1.0, -3.0]), np.array([2.0, 0.5])]
    actual = after(config, jnp.asarray(p), *(jnp.asarray(g) for g in gradients))
    first = second = 0.0
    for t, g in enumerate(gradients, 1):
        first, second = 0.8 * first + 0.2 * g, 0.9 * second + 0.1 * g**2
        p = p - 0.05 * (first / (1 - 0.8**t)) / (np.sqrt(second / (1 - 0.9**t)) + 1e-8)
    assert_close(actual, p, terms=16)


@pytest.mark.parametrize("name", ["adafactor", "adamw", "muon"])
def test_weight_decay_shrinks_kernels_by_learning_rate_times_decay(name):
    config = OptimizerConfig(
        name=name, learning_rate=0.5, schedule="constant", warmup_steps=2, weight_decay=0.1
    )
    params = {"query": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    params |= {"table": jnp.ones((2, 3)), "scale": jnp.ones(3)}
    zero = jax.tree.map(jnp.zeros_like, params)
    result = after(config, params, zero, zero)
    shrunk = (1 - 0.25 * 0.1) * (1 - 0.5 * 0.1)
    assert_close(result["query"].pop("kernel"), np.full((2, 3), shrunk), terms=4)
    for leaf in jax.tree.leaves(result):
        np.testing.assert_array_equal(leaf, 1.0)


DECAYED = """
    attention/key attention/output attention/query attention/state_query attention/value
    cell/dense_h cell/dense_i
    cell/ffn/hidden cell/ffn/output cell/key cell/output cell/query cell/token_query cell/value
    cell/ffn_gate/forget cell/ffn_gate/gate cell/ffn_gate/input
    cell/output_gate/forget cell/output_gate/gate cell/output_gate/input
    ffn/factor ffn/hidden ffn/output
""".split()
NOT_DECAYED = """
    embedding final_norm/scale ngrams/embedding
    layers/N/attention/relative_bias/table layers/N/attention/scale layers/N/attention/state_scale
    layers/N/attention_norm/scale layers/N/ffn_norm/scale layers/N/norm/scale
    layers/N/cell/dense_h/bias layers/N/cell/ffn_norm/scale layers/N/cell/norm/scale
    layers/N/cell/initial layers/N/cell/state_ids layers/N/cell/scale layers/N/cell/token_scale
    layers/N/cell/ffn_gate/bias layers/N/cell/ffn_gate/forget/bias
    layers/N/cell/ffn_gate/gate/bias layers/N/cell/ffn_gate/input/bias
    layers/N/cell/output_gate/bias layers/N/cell/output_gate/forget/bias
    layers/N/cell/output_gate/gate/bias layers/N/cell/output_gate/input/bias
""".split()
GATES = "fixed", "lstm", "gru", "selective"
EVERY_KIND = [
    *VARIANTS.values(),
    *({"gate": gate, "configuration": "dual"} for gate in GATES),
    {"layer": "lstm", "recurrent_layers": ()},
]


def test_every_parameter_of_every_model_is_decayed_or_not():
    """A parameter that is added later belongs in one of the lists."""
    found = {True: set(), False: set()}
    for fields in EVERY_KIND:
        _, params = abstract_model(dataclasses.replace(TINY, **fields))
        for path, decays in jax.tree_util.tree_leaves_with_path(is_kernel(params)):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found[decays].add(re.sub(r"^layers/\d+", "layers/N", name))
    assert found[True] == {f"layers/N/{name}/kernel" for name in DECAYED}
    assert found[False] == set(NOT_DECAYED)


def test_no_weight_decay_unless_asked_for():
    params = jnp.ones((2, 3))
    for name in ("adafactor", "adamw"):
        np.testing.assert_array_equal(after(OptimizerConfig(name=name), params, 0 * params), 1.0)


@pytest.mark.parametrize("name", ["adafactor", "adamw"])
def test_clipping_is_by_the_norm_of_all_gradients_together(name):
    params = {"a": jnp.ones(2), "b": jnp.ones(1)}
    large = {"a": jnp.array([30.0, 0.0]), "b": jnp.array([40.0])}
    small = {"a": jnp.array([0.3, 0.1]), "b": jnp.array([0.2])}
    clipped = jax.tree.map(lambda g: g / 50, large)

    def run(clip_norm, *gradients):
        config = OptimizerConfig(name=name, learning_rate=0.1, clip_norm=clip_norm, **STEADY)
        return jnp.concatenate(jax.tree.leaves(after(config, params, *gradients)))

    assert_close(run(1.0, large, small), run(None, clipped, small), terms=16)
    assert np.abs(run(1.0, large, small) - run(None, large, small)).max() > 1e-3


def test_zero_clip_norm_is_refused():
    with pytest.raises(UserError, match="clip_norm = 0.0: must be above 0, or None"):
        OptimizerConfig(clip_norm=0.0)


def test_adafactor_without_momentum_saves_its_memory():
    def size(beta1):
        optimizer, _ = make_optimizer(OptimizerConfig(beta1=beta1))
        state = jax.eval_shape(optimizer.init, jnp.ones((256, 256)))
        return sum(leaf.size for leaf in jax.tree.leaves(state))

    assert size(0.9) - size(0.0) == pytest.approx(256 * 256, abs=10)
    assert size(0.0) < 1000, "second moments are factored"


def test_the_state_of_muon_has_the_names_of_earlier_checkpoints():
    optimizer, _ = make_optimizer(OptimizerConfig(name="muon"))
    state = optimizer.init({"query": {"kernel": jnp.ones((2, 3))}, "scale": jnp.ones(3)})
    assert state.inner_states.keys() == {"kernel", "rest"}


def test_muon_orthogonalises_kernels_and_leaves_the_rest_to_adafactor():
    rng = np.random.default_rng(0)
    shapes = {"layer": {"kernel": (16, 48), "scale": (16,)}, "embedding": (32, 16)}
    params, gradient = (
        jax.tree.map(
            lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32),
            shapes,
            is_leaf=lambda leaf: isinstance(leaf, tuple),
        )
        for _ in range(2)
    )
    config = OptimizerConfig(name="muon", learning_rate=0.03, **STEADY)
    moved = jax.tree.map(jnp.subtract, after(config, params, gradient), params)
    singular = np.linalg.svd(moved["layer"]["kernel"], compute_uv=False)
    assert singular.max() / singular.min() < 2  # of the gradient it is nearly 4
    rms = np.sqrt(np.square(moved["layer"]["kernel"]).mean())
    np.testing.assert_allclose(rms, 0.2 * 0.03, rtol=0.3)
    adafactor = OptimizerConfig(name="adafactor", learning_rate=0.03, **STEADY)
    expected = jax.tree.map(jnp.subtract, after(adafactor, params, gradient), params)
    for found, wanted in (
        (moved["embedding"], expected["embedding"]),
        (moved["layer"]["scale"], expected["layer"]["scale"]),
    ):
        assert_close(found, wanted, terms=16, scale=1)  # differences of parameters
