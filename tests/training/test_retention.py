"""Which checkpoints are kept, --step=best, and the end of a run that no longer improves."""

import dataclasses
import shutil
from types import SimpleNamespace

import pytest
from orbax.checkpoint.checkpoint_managers import PreservationContext

from block_recurrent import UserError
from block_recurrent.config.train_options import TrainConfig
from block_recurrent.reporting.metrics_log import MetricsLog, read_metrics
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.retention import Retention, count_stale, rank
from block_recurrent.training.workdir import load_run
from corpus import tiny_run
from faults.damage import flip
from runs import SharingTrainer, assert_same_end, in_evaluation, send_sigterm, stop_in_step

LOSSES = {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.0, 10: None, 12: 4.0}  # 4 is the best, 8 is equal
EVERY_TWO = {"eval_every_steps": 2, "checkpoint_every_steps": 4, "keep_best": 1}


def history(losses=LOSSES, split="held_out", **more):
    """Lines of metrics.jsonl, with one of training after every evaluation."""
    lines = []
    for step, loss in losses.items():
        lines.append({"step": step, "split": split, "loss": loss} | more)
        lines.append({"step": step + 1, "split": "train", "loss": 0.0})
    return lines


def kept(steps, lines=(), **train):
    """The steps whose checkpoints are kept."""
    retention = Retention(TrainConfig(**train))
    retention.update(lines, steps)
    infos = [SimpleNamespace(step=step) for step in steps]
    keep = retention.should_preserve(infos, context=PreservationContext())
    return [step for step, yes in zip(steps, keep, strict=True) if yes]


def test_the_best_evaluation_comes_first_and_of_equal_ones_the_earlier():
    assert [line["step"] for line in rank(history(), "held_out", "loss")] == [4, 8, 6, 2, 12]
    lines = history({2: 1.0, 4: 1.0}) + history({6: 1.0}, accuracy=0.1)
    lines += history({8: 1.0, 10: 1.0}, accuracy=0.7)
    assert [line["step"] for line in rank(lines, "held_out", "accuracy")] == [8, 10, 6]


def test_evaluations_of_another_part_of_the_documents_do_not_count():
    lines = history({2: 1.0, 4: 1.1}, tokens=100) + history({6: 3.0, 8: 2.0, 10: 2.5}, tokens=200)
    ranked = rank(lines, "held_out", "loss")
    assert [line["step"] for line in ranked] == [8, 10, 6]
    assert count_stale(lines, "held_out", ranked) == 1
    assert kept([2, 8, 10], lines, keep_checkpoints=1) == [8, 10]


@pytest.mark.parametrize(
    "losses, stale",
    [
        ({}, 0),
        ({2: 3.0}, 0),
        ({2: 3.0, 4: 2.0}, 0),
        ({2: 2.0, 4: 2.0}, 1),
        (LOSSES, 4),
        ({2: None, 4: None}, 2),
        ({2: None, 4: 9.0}, 0),
    ],
)
def test_evaluations_since_the_best_one(losses, stale):
    lines = history(losses)
    assert count_stale(lines, "held_out", rank(lines, "held_out", "loss")) == stale


def test_the_newest_the_best_and_every_few_steps_are_kept():
    steps = list(range(2, 15, 2))
    assert kept(steps, history(), keep_best=0) == [10, 12, 14]
    assert kept(steps, history(), keep_checkpoints=1, keep_best=0) == [14]
    assert kept(steps, history()) == [4, 10, 12, 14], "the best by default"
    assert kept(steps, history(), keep_checkpoints=1, keep_best=3) == [4, 6, 8, 14]
    assert kept(steps, keep_checkpoints=1, keep_best=3) == [14], "nothing is evaluated yet"
    every = {"checkpoint_every_steps": 2, "keep_every_steps": 6}
    assert kept(steps, history(), keep_checkpoints=1, **every) == [4, 6, 12, 14]
    assert kept([6, 12], history(), keep_checkpoints=1) == [6, 12], "the best of those that exist"


def test_multiples_that_are_never_saved_are_refused():
    message = (
        "train.keep_every_steps = 250 is not a multiple of train.checkpoint_every_steps = 100: set "
        "it to 300"
    )
    with pytest.raises(UserError, match=message):
        TrainConfig(keep_every_steps=250, checkpoint_every_steps=100)


@pytest.fixture
def scored(monkeypatch):
    """Makes a trainer class whose evaluations have these losses instead of the real ones."""

    def scored(losses, base=SharingTrainer):
        class ScoredTrainer(base):
            def _train(self, *arguments):
                write = MetricsLog.write

                def write_scored(log, step, split, metrics):
                    change = {"loss": losses[step]} if split == "held_out" else {}
                    write(log, step, split, metrics | change)

                with monkeypatch.context() as patch:
                    patch.setattr(MetricsLog, "write", write_scored)
                    return super()._train(*arguments)

        return ScoredTrainer

    return scored


LATE = LOSSES | {10: 5.0}


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    """A run that overfits after step 4, which is no longer among the newest three checkpoints."""
    workdir = tmp_path_factory.mktemp("overfitted")
    config = tiny_run(corpus, **EVERY_TWO)
    return workdir, config


@pytest.fixture
def overfitted(undisturbed, scored):
    workdir, config = undisturbed
    if not (workdir / "checkpoints").exists():
        assert scored(LATE)(config, workdir).run()
    return workdir


def steps_of(workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.steps


def test_the_best_model_is_kept_and_found(overfitted, capsys):
    assert steps_of(overfitted) == [4, 8, 10, 12]
    assert load_run(overfitted).step == 12
    assert (load_run(overfitted, 8).step, capsys.readouterr().err) == (8, "")
    assert load_run(overfitted, "best").step == 4
    assert capsys.readouterr().err == "--step=best: step 4, held-out loss 1.0000\n"


def test_a_damaged_best_is_passed_over(overfitted, tmp_path, capsys):
    copy = shutil.copytree(overfitted, tmp_path / "copy")
    params = copy / "checkpoints" / "4" / "params"
    flip(max(params.rglob("*"), key=lambda path: path.stat().st_size))
    log = copy / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 2, "split": "held_out", "loss": 0.25}\n')
    assert load_run(copy, "best").step == 8
    skipped, said = capsys.readouterr().err.splitlines()
    assert skipped.startswith("checkpoint 4 is skipped: ")
    start = "--step=best: step 8, held-out loss 1.0000; step "
    assert said == start + "2 was better (0.2500), but is not kept"
    log.write_text(log.read_text() + '{"step": 4, "split": "held_out", "loss": 0.125}\n')
    load_run(copy, "best")
    assert capsys.readouterr().err.endswith("4 was better (0.1250), but is damaged\n")
    with pytest.raises(UserError, match="--step=4: this checkpoint is damaged: choose another"):
        load_run(copy, 4)


def test_steps_that_cannot_be_chosen(overfitted, tmp_path):
    with pytest.raises(UserError, match="--step=5: no such checkpoint in .*choose from 4, 8, 10, "):
        load_run(overfitted, 5)
    copy = shutil.copytree(overfitted, tmp_path / "copy")
    (copy / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="--step=best: no intact checkpoint in .* been evaluated"):
        load_run(copy, "best")
    shutil.rmtree(copy / "checkpoints")
    for step in ("best", "latest", 4):
        with pytest.raises(UserError, match="no checkpoint in .*: train first"):
            load_run(copy, step)


@pytest.mark.slow
@pytest.mark.parametrize(
    "disturbed",
    [stop_in_step(5), pytest.param(in_evaluation(8, send_sigterm), marks=pytest.mark.long)],
)
def test_what_is_kept_does_not_depend_on_stops(disturbed, corpus, overfitted, scored, tmp_path):
    config = tiny_run(corpus, **EVERY_TWO)
    assert not scored(LATE, disturbed)(config, tmp_path).run()
    assert scored(LATE)(config, tmp_path).run()
    assert_same_end(tmp_path, overfitted, config)
    assert steps_of(tmp_path) == steps_of(overfitted)


@pytest.mark.parametrize("keep_best", [1, pytest.param(0, marks=pytest.mark.long)])
def test_a_run_ends_when_it_no_longer_improves(keep_best, corpus, scored, tmp_path, capsys):
    config = tiny_run(corpus, **EVERY_TWO | {"keep_best": keep_best}, patience=1)
    why = "step 6: the held-out loss has not improved in 1 evaluation, so the run ends"
    assert scored(LATE)(config, tmp_path).run()
    assert why in capsys.readouterr().out
    assert steps_of(tmp_path)[-1] == 6
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert scored(LATE)(config, tmp_path).run(), "the same command again"
    assert why in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_run_that_ended_early_can_be_continued(corpus, overfitted, scored, tmp_path):
    config = tiny_run(corpus, **EVERY_TWO)
    early = dataclasses.replace(config, train=dataclasses.replace(config.train, patience=1))
    assert scored(LATE)(early, tmp_path).run()
    assert steps_of(tmp_path)[-1] == 6
    assert scored(LATE)(config, tmp_path).run()
    assert_same_end(tmp_path, overfitted, config)


def test_a_stop_in_the_last_evaluation_is_made_up_for(corpus, scored, tmp_path):
    """The evaluation at which the run ends is repeated, and the run still ends there."""
    config = tiny_run(corpus, **EVERY_TWO, patience=1)
    assert not scored(LATE, in_evaluation(6, send_sigterm))(config, tmp_path).run()
    assert scored(LATE)(config, tmp_path).run()
    assert steps_of(tmp_path)[-1] == 6
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines if line["split"] == "held_out"] == [2, 4, 6]
