"""A batch in parts gives what the whole batch gives, for every model, with the memory of a part."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from block_recurrent import UserError
from block_recurrent.config.device_options import MeshConfig
from block_recurrent.config.train_options import TrainConfig
from block_recurrent.data.lanes import Batch
from block_recurrent.model.transformer import abstract_model
from block_recurrent.parallel.sharding import Layout, make_mesh
from block_recurrent.training.held_out import HeldOutEvaluation
from block_recurrent.training.setup import Setup
from block_recurrent.training.train_step import init_function, make_gradients, make_train_step
from close import assert_close
from corpus import tiny_run
from runs import SharingTrainer, assert_same_end, metrics, stop_in_step
from tiny import TERMS, TINY, VARIANTS, assert_same_numbers, make_model, split

ROWS, LENGTH, W = 8, 32, TINY.window_length
# Not all variants: gates are the same whatever the rows.
NAMES = "fixed_skip", "bfloat16", "full_attention", "modern", "sliding_window"
KINDS = {name: VARIANTS[name] for name in NAMES} | {
    "feedback_two_recurrent_layers": VARIANTS["feedback_two_recurrent_layers"] | {"num_layers": 3},
    "remat": {"remat": "layer"},
    "recurrent_dropout": {"feedback": True, "dropout_rate": 0.2},
    "lstm": {"layer": "lstm", "recurrent_layers": ()},
}
ONE_LAYER = {"num_layers": 1, "recurrent_layers": (0,)}
BRIEF = "recurrent_dropout", "lstm"


def layout():
    return Layout(make_mesh(MeshConfig(), TINY, ROWS, jax.devices()[:1]))


@functools.cache
def make_batch() -> Batch:
    """A batch whose rows have different numbers of targets, the last one none."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 260, (ROWS, LENGTH + 1)).astype(np.int32)
    weights = rng.random((ROWS, LENGTH)) < np.linspace(1, 0, ROWS)[:, None]
    starts = rng.random((ROWS, LENGTH // W)) < 0.3
    return Batch(tokens[:, :-1], tokens[:, 1:], weights.astype(np.float32), starts)


def make_memory(model):
    """The memory of rows that have read something, one of which has to restart."""
    rng = np.random.default_rng(1)

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.asarray(rng.integers(0, 260, leaf.shape), leaf.dtype)
        return jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree.map(fill, model.initial_state(ROWS)), jnp.arange(ROWS) != 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.long] * (kind not in BRIEF)) for kind in KINDS],
)
def test_parts_equal_the_whole_batch(kind):
    """Gradients, losses and memory of every row, with dropout."""
    model = make_model(**{"dropout_rate": 0.1, "num_layers": 2} | KINDS[kind])
    graphdef, params = split(model)
    batch = make_batch()
    shared = batch.weights.sum(), jax.random.key(0)

    def results(microbatches):
        gradients = jax.jit(make_gradients(graphdef, layout(), microbatches))
        grads, (nats, (state, finite)) = gradients(params, make_memory(model), batch, shared)
        assert finite.all() and nats.shape == (ROWS, 1)
        return grads, nats, state

    (whole, *whole_rows), (parts, *rows) = results(1), results(4)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(whole)) > 1e-3
    if kind == "bfloat16":
        assert_same_numbers((parts, rows), (whole, whole_rows), kind)
    else:
        assert_same_numbers(rows, whole_rows)
        assert_close(parts, whole, terms=TERMS * ROWS * LENGTH)  # gradients are sums over tokens


def jitted_step(microbatches, **fields):
    """The first state of a tiny model, and its step."""
    config = dataclasses.replace(TINY, **fields)
    graphdef, _ = abstract_model(config)
    optimizer = optax.sgd(optax.constant_schedule(0.1))
    init = init_function(config, optimizer, ROWS, seed=0)
    return init, jax.jit(make_train_step(graphdef, optimizer, 10, layout(), microbatches))


def test_the_program_does_not_grow_with_the_number_of_parts():
    def lines(microbatches):
        init, step = jitted_step(microbatches, **ONE_LAYER)
        return len(step.lower(jax.eval_shape(init), make_batch()).as_text().splitlines())

    assert lines(2) == lines(4)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", pytest.param("layer", marks=pytest.mark.long)])
def test_the_memory_is_that_of_a_part(remat):
    def temporaries(microbatches):
        init, step = jitted_step(microbatches, num_layers=2, remat=remat)
        compiled = step.lower(jax.eval_shape(init), make_batch()).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(8) < 0.7 * temporaries(4) < 0.7**2 * temporaries(2)


def test_parameters_in_bfloat16():
    """Gradients of parts are summed, and updates made, in float32; the parameters are rounded."""
    config = dataclasses.replace(TINY, num_layers=1, recurrent_layers=(), param_dtype="bfloat16")
    graphdef, _ = abstract_model(config)
    optimizer = optax.chain(optax.trace(0.9), optax.sgd(optax.constant_schedule(0.1)))
    before = jax.jit(init_function(config, optimizer, ROWS, seed=0, averages=True))()
    step = make_train_step(graphdef, optimizer, 10, layout(), 2, average_decay=0.9)
    after, _ = jax.jit(step)(before, make_batch())

    def dtypes(state):
        return jax.tree.map(lambda leaf: leaf.dtype.name, state)

    assert dtypes(after) == dtypes(before)
    assert set(jax.tree.leaves(dtypes(after.params))) == {"bfloat16"}
    assert set(jax.tree.leaves(dtypes((after.averaged, after.optimizer[0])))) == {"float32"}
    for old, momentum, new in zip(
        *map(jax.tree.leaves, (before.params, after.optimizer[0], after.params)), strict=True
    ):
        expected = (old.astype(jnp.float32) - 0.1 * momentum).astype(jnp.bfloat16)
        assert_close(new, expected, terms=1, dtype=jnp.bfloat16)
    assert np.any(after.params["embedding"] != before.params["embedding"])
    jax.tree.map(np.testing.assert_array_equal, after.averaged, after.params)


@pytest.fixture(scope="module")
def steps():
    """The first state, and the step on the whole batch and on four parts, with dropout."""
    made = {parts: jitted_step(parts, **ONE_LAYER, dropout_rate=0.1) for parts in (1, 4)}
    return made[1][0](), {parts: step for parts, (_, step) in made.items()}


def test_metrics_are_those_of_the_whole_batch(steps):
    state, made = steps
    results = {}
    for parts, step in made.items():
        after = state
        for _ in range(2):
            after, measured = step(after, make_batch())
        results[parts] = after.params, after.model, after.sums, measured
        assert after.sums.tokens == 2 * make_batch().weights.sum()
    assert_same_numbers(results[4], results[1])


def test_a_part_that_is_not_finite_is_handled_as_in_the_whole_batch(steps):
    """The update is skipped; only the row itself restarts, in whichever part it is."""
    state, made = steps
    batch = make_batch()
    weights = batch.weights.copy()
    weights[3, 0] = np.nan
    for step in made.values():
        after, measured = step(state, batch._replace(weights=weights))
        jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
        assert after.finite.tolist() == [row != 3 for row in range(ROWS)]
        assert (after.nonfinite, after.sums.nonfinite, after.sums.steps) == (1, 1, 0)
        assert np.isnan(measured.loss) and measured.updates == 0
        after, measured = step(after, batch)
        assert after.finite.all() and after.nonfinite == 0 and measured.updates == 1
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.model))


@pytest.mark.slow
def test_a_run_in_parts_continues_bit_for_bit_and_trains_like_a_whole_one(corpus, tmp_path):
    config = tiny_run(corpus, microbatches=2, lanes=12)
    assert SharingTrainer(config, tmp_path / "parts").run()
    assert not stop_in_step(5)(config, tmp_path / "stopped").run()
    assert SharingTrainer(config, tmp_path / "stopped").run()
    assert_same_end(tmp_path / "stopped", tmp_path / "parts", config)
    assert SharingTrainer(tiny_run(corpus, lanes=12), tmp_path / "whole").run()
    whole, parts = metrics(tmp_path / "whole"), metrics(tmp_path / "parts")
    for name in ("step", "loss"):
        values = [[line[name] for line in lines] for lines in (parts, whole)]
        assert values[0] == pytest.approx(values[1], rel=1e-4)


@pytest.mark.parametrize("number", [0, -2])
def test_there_is_at_least_one_part(number):
    with pytest.raises(UserError, match=f"microbatches = {number}: must be at least 1"):
        TrainConfig(microbatches=number)


def test_the_summary_names_the_parts(corpus, tmp_path):
    setup = SharingTrainer(tiny_run(corpus, microbatches=2), tmp_path / "run").setup
    assert "12 steps of 4 × 32 tokens in 2 parts on" in setup.summary(tmp_path)


def test_evaluations_read_no_more_at_once_than_a_part(corpus):
    for parts in (1, 4):
        lanes = HeldOutEvaluation(Setup(tiny_run(corpus, microbatches=parts))).evaluator.lanes
        assert lanes.batch_size * lanes.segment_length == 4 * 32 / parts


def test_parts_that_do_not_divide_the_rows_are_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="train.microbatches = 3 does not divide the 4 rows"):
        SharingTrainer(tiny_run(corpus, microbatches=3), tmp_path / "run")
    assert not (tmp_path / "run").exists()
