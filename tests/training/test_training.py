"""Training runs: what they write, how they continue, and how they are evaluated."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import block_recurrent.training.held_out
from block_recurrent import UserError, save_model
from block_recurrent.config.device_options import MeshConfig
from block_recurrent.config.run_config import load, to_gin
from block_recurrent.config.train_options import TrainConfig
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.text_files import load_standard_library
from block_recurrent.evaluation.evaluator import Evaluator
from block_recurrent.evaluation.excerpt import Excerpt
from block_recurrent.model.transformer import abstract_model
from block_recurrent.parallel.sharding import Layout, make_mesh
from block_recurrent.reporting.wandb_log import WandbLog
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.config_changes import check_changes
from block_recurrent.training.held_out import HeldOutEvaluation, overfitting_note
from block_recurrent.training.setup import Setup
from block_recurrent.training.trainer import Trainer
from block_recurrent.training.workdir import load_run, read_config, record_config
from corpus import tiny_run
from runs import (
    SharingTrainer,
    assert_same_end,
    in_evaluation,
    metrics,
    send_sigterm,
    stop_in_step,
)
from tiny import assert_same_numbers


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """An undisturbed run."""
    workdir = tmp_path_factory.mktemp("finished")
    assert SharingTrainer(tiny_run(corpus), workdir).run()
    return workdir


def test_a_run_learns_and_reports(finished):
    lines = metrics(finished)
    assert [(line["step"], line["split"]) for line in lines] == [
        (5, "train"),
        (6, "held_out"),
        (10, "train"),
        (12, "train"),
        (12, "held_out"),
    ]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert {"loss", "bits_per_token", "bits_per_byte"} <= set(lines[-1])
    assert {"learning_rate", "gradient_norm", "padding"} <= set(lines[0])
    assert list((finished / "tensorboard").iterdir())
    assert sorted(p.name for p in (finished / "checkpoints").iterdir()) == ["12", "4", "8"]


def test_every_metric_is_documented(finished):
    """The tables of docs/metrics.md have the keys of metrics.jsonl, and those of special cases."""
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
    text = (finished / "metrics.jsonl").read_text()
    written = {key for line in text.splitlines() for key in json.loads(line)}
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == written | {
        "tokens",
        "text_lost",
    }


def test_an_evaluation_of_a_part(corpus, tmp_path, capsys):
    config = tiny_run(corpus, num_steps=1, eval_tokens=300)
    trainer = SharingTrainer(config, tmp_path)
    everything = trainer.setup.documents["held_out"]
    assert trainer.run()
    *_, line = metrics(tmp_path)
    assert (line["split"], line["tokens"]) == ("held_out", 300)
    out, total = capsys.readouterr().out, f"{everything.num_tokens:,}"
    assert f"\nevals  300 of {total} held-out tokens (train.eval_tokens)\n" in out
    assert f", over 300 of {total} tokens; the same" in out
    graphdef, params = nnx.split(load_run(tmp_path).model)
    evaluator, layout = trainer.evaluator, trainer.setup.layout
    shape = evaluator.lanes.batch_size, evaluator.lanes.segment_length
    score = Evaluator(graphdef, Excerpt(everything, 300), 8, *shape, layout)
    score = score(nnx.to_pure_dict(params)).metrics()
    assert {name: line[name] for name in score} == pytest.approx(score, rel=1e-5)


def test_small_corpora_are_evaluated_whole(corpus, tmp_path):
    evaluation = SharingTrainer(tiny_run(corpus), tmp_path).evaluation
    assert evaluation.part is None and isinstance(evaluation.documents, ByteDocuments)
    assert load_standard_library(20)["held_out"].num_tokens < TrainConfig().eval_tokens


@pytest.mark.parametrize(
    "steps", [6, *(pytest.param(k, marks=pytest.mark.long) for k in (1, 5, 12))]
)
def test_k_steps_a_stop_and_the_rest_equal_an_undisturbed_run(steps, corpus, finished, tmp_path):
    config = tiny_run(corpus)
    assert not stop_in_step(steps)(config, tmp_path).run()
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.find_latest_intact() == steps
    assert all(line["split"] == "train" for line in metrics(tmp_path) if line["step"] == steps)
    assert SharingTrainer(config, tmp_path).run()
    assert_same_end(tmp_path, finished, config)


@pytest.mark.slow  # test_retention.py always stops the last evaluation of a run
@pytest.mark.parametrize("steps", [12, pytest.param(6, marks=pytest.mark.long)])
def test_a_stop_during_an_evaluation(steps, corpus, finished, tmp_path):
    """The run saves, ends at once, and makes up for the evaluation when it is continued."""
    config = tiny_run(corpus)
    for _ in range(2):  # the second time, in the evaluation that was missing
        assert not in_evaluation(steps, send_sigterm)(config, tmp_path).run()
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            assert checkpoints.find_latest_intact() == steps
        done = [line for line in metrics(finished) if line["step"] <= steps]
        assert metrics(tmp_path) == done[:-1], "all but the evaluation"
    assert SharingTrainer(config, tmp_path).run()
    assert_same_end(tmp_path, finished, config)


@pytest.mark.slow
@pytest.mark.parametrize("evaluations", [6, pytest.param(4, marks=pytest.mark.long)])
def test_a_crash_during_an_evaluation(evaluations, corpus, tmp_path):
    """What is due is saved before the evaluation, which is neither lost nor repeated."""
    config = tiny_run(corpus, eval_every_steps=evaluations, sample_tokens=8)

    def crash():
        raise RuntimeError("crash")

    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    for step in range(evaluations, 13, evaluations):
        with pytest.raises(RuntimeError, match="crash"):
            in_evaluation(step, crash)(config, disturbed).run()
        with Checkpoints(disturbed, read_only=True) as checkpoints:
            assert checkpoints.find_latest_intact() == step // 4 * 4
    assert SharingTrainer(config, disturbed).run()
    assert SharingTrainer(config, undisturbed).run()
    assert_same_end(disturbed, undisturbed, config)
    samples = (folder / "samples.jsonl" for folder in (disturbed, undisturbed))
    assert len({path.read_text() for path in samples}) == 1


@pytest.mark.slow
def test_texts_change_no_number_and_continue_like_the_rest(corpus, finished, tmp_path):
    config = tiny_run(corpus, sample_tokens=12, sample_prompt="the ")
    assert not stop_in_step(7)(config, tmp_path).run()
    first = (tmp_path / "samples.jsonl").read_text()
    assert SharingTrainer(config, tmp_path).run()
    assert_same_end(tmp_path, finished, config)
    texts = (tmp_path / "samples.jsonl").read_text()
    assert texts.startswith(first) and first
    lines = [json.loads(line) for line in texts.splitlines()]
    assert [(line["step"], line["prompt"]) for line in lines] == [(6, "the "), (12, "the ")]
    assert not (finished / "samples.jsonl").exists()


@pytest.mark.slow
def test_weights_and_biases_gets_the_same_numbers_and_changes_none(
    corpus, finished, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    sent = []
    monkeypatch.setattr(WandbLog, "write", lambda _, *line: sent.append(line))
    config = tiny_run(corpus, wandb_project="blocks")
    assert SharingTrainer(config, tmp_path).run()
    assert_same_end(tmp_path, finished, config)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [{"step": step, "split": split, **numbers} for step, split, numbers in sent] == lines
    assert list(tmp_path.glob("wandb/offline-run-*"))


def test_texts_may_be_switched_on_later(corpus, finished, tmp_path):
    record_config(tmp_path, read_config(finished))
    config = tiny_run(corpus, sample_tokens=12, sample_prompt="the state")
    config = dataclasses.replace(config, data=read_config(finished).data)
    assert check_changes(tmp_path, config).names() == {"train.sample_tokens", "train.sample_prompt"}


def test_a_crash_between_checkpoints_loses_no_more_than_time(
    corpus, finished, tmp_path, monkeypatch, capsys
):
    """And the rest tells if the model fits the documents that it is reading."""
    config = tiny_run(corpus)
    monkeypatch.setattr(block_recurrent.training.held_out, "OVERFITTING", 0)

    def crash(*_):
        raise RuntimeError("crash")

    with monkeypatch.context() as patch:
        # At step 6, after the checkpoint of step 4.
        patch.setattr(HeldOutEvaluation, "__call__", crash)
        with pytest.raises(RuntimeError, match="crash"):
            SharingTrainer(config, tmp_path).run()
    assert metrics(tmp_path)[-1]["step"] == 5
    assert SharingTrainer(config, tmp_path).run()
    assert_same_end(tmp_path, finished, config)
    _, ratio = re.findall(
        r"step (?:6|12): the held-out loss is (.*) × the", capsys.readouterr().out
    )
    losses = [line["loss"] for line in metrics(finished)]
    assert ratio == f"{losses[4] / np.mean([losses[0], losses[2]]):.2f}"


@pytest.mark.parametrize(
    "held_out, training, more_lanes, words",
    [
        (1.5, 1.0, 128, "1.50 × the training loss.*: in a new run, set train.lanes = 128, or tr"),
        (1.5, 1.0, None, "1.50 × the training loss.*: train on more text"),
    ],
)
def test_an_overfitting_run_is_told_what_to_do(held_out, training, more_lanes, words):
    assert re.search(words, overfitting_note(held_out, training, more_lanes))


@pytest.mark.parametrize("held_out, training", [(1.5, 1.2), (1.5, 0.0), (math.inf, 1.0)])
def test_other_runs_are_told_nothing(held_out, training):
    assert overfitting_note(held_out, training, 128) is None


def test_a_finished_run_is_not_changed(corpus, finished, capsys):
    before = (finished / "metrics.jsonl").read_bytes()
    assert SharingTrainer(tiny_run(corpus), finished).run()
    assert "all 12 steps of this run are done" in capsys.readouterr().out
    assert (finished / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_the_saved_configuration_alone_repeats_the_run(corpus, finished, tmp_path):
    config = load([str(finished / "config.gin")], [])
    assert Trainer(config, tmp_path).run()
    assert_same_end(tmp_path, finished, config)  # the same seed, the same bits
    assert (tmp_path / "config.gin").read_text() == (finished / "config.gin").read_text()
    assert read_config(tmp_path) == config and to_gin(config)


def test_another_configuration_is_refused_and_the_difference_named(corpus, finished):
    other = tiny_run(corpus, seed=1)
    before = (finished / "config.gin").read_text()
    with pytest.raises(UserError, match="train.seed: 0 in the workdir, 1 now") as error:
        SharingTrainer(other, finished).run()
    assert "\n" not in str(error.value)
    assert (finished / "config.gin").read_text() == before


def test_a_run_may_continue_for_more_steps(corpus, finished, tmp_path):
    assert SharingTrainer(tiny_run(corpus, num_steps=8), tmp_path).run()
    assert SharingTrainer(tiny_run(corpus), tmp_path).run()
    assert metrics(tmp_path)[-1] == metrics(finished)[-1]
    assert SharingTrainer(tiny_run(corpus, num_steps=8), tmp_path).run(), "8 of 12 steps are done"
    assert metrics(tmp_path)[-1] == metrics(finished)[-1]


def test_vocabulary_too_small_for_the_corpus(corpus, tmp_path):
    config = tiny_run(corpus)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=200))
    with pytest.raises(UserError, match="set BlockRecurrentTransformer.vocab_size = 260"):
        SharingTrainer(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluation_depends_on_neither_batch_nor_segment(corpus, finished):
    config = tiny_run(corpus)
    graphdef, abstract = abstract_model(config.model)
    with Checkpoints(finished, read_only=True) as checkpoints:
        params = checkpoints.restore_params(abstract, 12)
    layout = Layout(make_mesh(MeshConfig(), config.model, 4))
    documents = load_documents(config.data)["held_out"]
    scores = [
        Evaluator(graphdef, documents, 8, batch, segment, layout)(params)
        for batch, segment in [(1, 8), (3, 64)]
    ]
    for score in scores:
        assert (
            score.num_tokens == documents.num_tokens == documents.num_bytes + len(documents.names)
        )
        assert_same_numbers(score.nats, scores[0].nats)
    logged = metrics(finished)[-1]
    assert_same_numbers(scores[1].metrics()["bits_per_byte"], logged["bits_per_byte"])


@pytest.mark.parametrize(
    "layers, text", [((-1,), "6 states in layer 1"), ((0, 1), "layer 0, 1"), ((), "no recurrence")]
)
def test_summary_names_the_memory(layers, text, corpus, tmp_path):
    config = tiny_run(corpus)
    model = dataclasses.replace(config.model, num_layers=2, recurrent_layers=layers)
    summary = Setup(dataclasses.replace(config, model=model)).summary(tmp_path)
    assert text in summary and "window 8" in summary and "12 steps of 4 × 32 tokens" in summary


def starting_from(path, config):
    return dataclasses.replace(
        config, train=dataclasses.replace(config.train, initial_model=str(path))
    )


def test_a_run_starts_from_the_model_of_a_file(corpus, finished, tmp_path):
    config, model, _ = load_run(finished)
    save_model(tmp_path / "model", model)
    trainer = SharingTrainer(starting_from(tmp_path / "model", config), tmp_path / "run")
    with Checkpoints(tmp_path / "run") as checkpoints:
        state, _ = trainer.start(checkpoints)
    assert int(state.step) == 0
    want = nnx.to_pure_dict(nnx.split(model)[1])
    jax.tree.map(np.testing.assert_array_equal, state.params, want)


def test_a_continued_run_does_not_need_its_initial_model(finished, tmp_path):
    config = starting_from(tmp_path / "lost", load_run(finished).config)
    with pytest.raises(UserError, match="cannot read the model"):
        Trainer(config, tmp_path / "run")
    shutil.copytree(finished / "checkpoints", tmp_path / "run" / "checkpoints")
    assert Trainer(config, tmp_path / "run").initial_params is None


def test_a_run_does_not_start_from_another_architecture(corpus, finished, tmp_path):
    config, model, _ = load_run(finished)
    save_model(tmp_path / "model", model)
    other = dataclasses.replace(config.model, gate="lstm")
    config = starting_from(tmp_path / "model", dataclasses.replace(config, model=other))
    with pytest.raises(UserError, match="gate = 'fixed', but this run has 'lstm': set Block"):
        Trainer(config, tmp_path / "run")
