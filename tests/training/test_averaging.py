"""Averaged weights: the moving average in a run, and the mean of several checkpoints."""

import json
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_nonfinite import poisoned

import block_recurrent.export
from block_recurrent import UserError, load_model, save_model
from block_recurrent.config.train_options import TrainConfig
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.reporting.metrics_log import MetricsLog, read_metrics
from block_recurrent.training.averaging import update_average
from block_recurrent.training.checkpoints import Checkpoints, training_item, weights_of
from block_recurrent.training.retention import Retention
from block_recurrent.training.setup import Setup
from block_recurrent.training.trainer import Trainer
from block_recurrent.training.workdir import load_run
from close import assert_close
from corpus import tiny_run
from runs import SharingTrainer, assert_same_end, in_evaluation, send_sigterm, stop_in_step
from tiny import assert_same_numbers

DECAY = 0.75
OPTIONS = {"num_steps": 5, "eval_every_steps": 5, "checkpoint_every_steps": 1}
OPTIONS |= {"keep_checkpoints": 9, "average_decay": DECAY}


def explicit_average(values, decay):
    """Σ β^(t − i) p_i / Σ β^(t − i), in float64."""
    weights = decay ** np.arange(len(values) - 1, -1, -1)
    return np.tensordot(weights / weights.sum(), np.array(values, float), 1)


@pytest.mark.parametrize("decay", [0.1, 0.9, 0.999, 0.99999])
def test_the_average_is_the_explicit_sum(decay):
    values = np.random.default_rng(0).standard_normal((40, 6, 5)).astype(np.float32)
    average = {"a": jnp.full((6, 5), 1e3)}  # initial values have no part in it
    update = jax.jit(update_average, static_argnums=3)
    for number, value in enumerate(values, 1):
        average = update(average, {"a": value}, jnp.int32(number), decay)
        if number == 1:
            np.testing.assert_array_equal(average["a"], value)
        expected = explicit_average(values[:number], decay)
        assert_close(average["a"], expected, terms=4 * number, scale=np.abs(values).max())


@pytest.fixture(scope="module")
def config(corpus):
    return tiny_run(corpus, **OPTIONS)


@pytest.fixture(scope="module")
def averaged(config, tmp_path_factory):
    """A run whose third step is not finite, with a checkpoint after every step."""
    workdir = tmp_path_factory.mktemp("averaged")
    assert poisoned(3)(config, workdir).run()
    return workdir


def params_of(run):
    return nnx.to_pure_dict(nnx.state(run.model))


@pytest.mark.slow
def test_a_run_averages_the_parameters_after_each_update(averaged):
    """Steps that are not finite are no updates."""
    raw = [params_of(load_run(averaged, step)) for step in range(1, 6)]
    jax.tree.map(np.testing.assert_array_equal, raw[1], raw[2])
    for step, counted in (1, [0]), (2, [0, 1]), (3, [0, 1]), (5, [0, 1, 3, 4]):
        found = params_of(load_run(averaged, step, "averaged"))
        expected = jax.tree.map(
            lambda *leaves: explicit_average(leaves, DECAY), *(raw[index] for index in counted)
        )
        assert_close(found, expected, terms=20)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), found, raw[4])))


@pytest.mark.slow
def test_both_weights_are_evaluated(averaged, config):
    lines = read_metrics(averaged)
    found = [(line["step"], line["split"]) for line in lines]
    assert found == [(5, "train"), (5, "held_out_averaged"), (5, "held_out")]
    evaluator = SharingTrainer(config, averaged).evaluator
    for line in lines[1:]:
        weights = "averaged" if line["split"] == "held_out_averaged" else "raw"
        score = evaluator(params_of(load_run(averaged, "best", weights))).metrics()
        for name, value in score.items():
            assert_same_numbers(line[name], value)
    assert lines[1]["loss"] != lines[2]["loss"] and "memory_worth" not in lines[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "disturbed",
    [stop_in_step(4), pytest.param(in_evaluation(5, send_sigterm), marks=pytest.mark.long)],
)
def test_a_stop_and_the_rest_equal_an_undisturbed_run(disturbed, config, averaged, tmp_path):
    assert not poisoned(3, base=disturbed)(config, tmp_path).run()
    assert poisoned(3)(config, tmp_path).run()
    assert_same_end(tmp_path, averaged, config)


def test_an_evaluation_that_was_cut_off_between_the_weights_is_dropped(tmp_path):
    with MetricsLog(tmp_path, None) as log:
        for step in (10, 20):
            log.write(step, "train", {})
            log.write(step, "held_out_averaged", {})
            log.write(step, "held_out", {})
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    MetricsLog(tmp_path, 20).close()
    found = [(line["step"], line["split"]) for line in read_metrics(tmp_path)]
    whole = [(10, "train"), (10, "held_out_averaged"), (10, "held_out")]
    assert found == [*whole, (20, "train")]


def test_without_an_average_the_state_is_as_it_was(corpus):
    setup = Setup(tiny_run(corpus))
    assert setup.abstract.averaged is None
    assert weights_of(setup.abstract).keys() == {"params"}
    item = training_item(setup.abstract, setup.lanes.initial_position())
    assert set(item["state"]) == set("step optimizer model finite sums nonfinite key".split())


def test_the_average_is_split_over_devices_like_the_parameters(config):
    setup = Setup(config)
    assert setup.shardings.averaged == setup.shardings.params
    assert "averaged parameters" in setup.summary("run")


@pytest.mark.slow
def test_an_initial_model_begins_the_average_too(averaged, config, corpus, tmp_path):
    save_model(tmp_path / "model", load_run(averaged).model)
    config = tiny_run(corpus, **OPTIONS, initial_model=str(tmp_path / "model"))
    with Checkpoints(tmp_path / "run") as checkpoints:
        state, _ = Trainer(config, tmp_path / "run").start(checkpoints)
    jax.tree.map(np.testing.assert_array_equal, state.params, state.averaged)
    pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(state.averaged), strict=True)
    # Both are donated to the first step.
    assert all(a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer() for a, b in pairs)


def test_the_best_of_both_weights_is_kept_and_either_improvement_counts():
    lines = [
        {"step": step, "split": split, "loss": loss}
        for split, losses in (("held_out", "2134"), ("held_out_averaged", "4312"))
        for step, loss in enumerate(map(int, losses), 1)
    ]
    retention = Retention(TrainConfig(average_decay=0.9))
    retention.update(lines, range(1, 5))
    assert (retention.best, retention.stale) == ({2, 3}, 1)
    raw = Retention(TrainConfig())
    raw.update(lines, range(1, 5))
    assert (raw.best, raw.stale) == ({2}, 2)


@pytest.mark.slow
def test_the_best_depends_on_the_weights(averaged, tmp_path, capsys):
    copy = shutil.copytree(averaged, tmp_path / "copy")
    lines = [{"step": 2, "split": "held_out", "loss": 0.5}]
    lines += [{"step": 4, "split": "held_out_averaged", "loss": 0.25}]
    (copy / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [load_run(copy, "best", weights).step for weights in ("raw", "averaged")] == [2, 4]
    assert capsys.readouterr().err == (
        "--step=best: step 2, held-out loss 0.5000\n"
        "--step=best: step 4, held-out loss 0.2500 of the averaged weights\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["raw", "averaged"])
def test_the_mean_of_the_last_checkpoints(weights, averaged, capsys):
    each = [params_of(load_run(averaged, step, weights)) for step in (2, 3, 4)]
    expected = jax.tree.map(lambda *leaves: np.mean(np.array(leaves, float), 0), *each)
    run = load_run(averaged, 4, weights, average=3)
    assert_close(params_of(run), expected, terms=9)
    assert (run.step, capsys.readouterr().err) == (4, "--average=3: steps 2, 3, 4\n")


@pytest.mark.slow
def test_means_and_weights_that_are_not_there(averaged, corpus, tmp_path):
    message = (
        r"--average=9: only 4 intact checkpoint\(s\) up to step 4 in .*: give a smaller number"
    )
    with pytest.raises(UserError, match=message):
        load_run(averaged, 4, average=9)
    with pytest.raises(UserError, match="--average=0: give the number of checkpoints, 1 or more"):
        load_run(averaged, average=0)
    copy = shutil.copytree(averaged, tmp_path / "copy")
    text = (copy / "config.gin").read_text()
    (copy / "config.gin").write_text(
        text.replace(f"average_decay = {DECAY}", "average_decay = None")
    )
    message = "--weights=averaged: .* was trained without train.average_decay: leave it out"
    with pytest.raises(UserError, match=message):
        load_run(copy, weights="averaged")


@pytest.mark.slow
def test_averaged_weights_are_exported(averaged, tmp_path, monkeypatch, capsys):
    path = tmp_path / "mean.safetensors"
    arguments = [f"--workdir={averaged}", f"--output={path}", "--weights=averaged", "--average=2"]
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    block_recurrent.export.main()
    model, about = load_model(path)
    about = {name: about[name] for name in ("step", "weights", "average", "vocabulary")}
    expected = {"step": "5", "weights": "averaged", "average": "2"}
    assert about == expected | {"vocabulary": ByteVocabulary.name}
    expected = params_of(load_run(averaged, 5, "averaged", average=2))
    found = nnx.to_pure_dict(nnx.state(model))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
