"""What a run reports, in which process, and spikes of the loss."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from block_recurrent.training import reporter
from block_recurrent.training.reporter import LossSpikes, Reporter, open_trackers
from block_recurrent.training.train_step import MetricSums, StepMetrics
from corpus import tiny_run
from runs import SharingTrainer


class Recorder:
    """A tracker that records its arguments."""

    def __init__(self):
        self.lines, self.texts = [], []

    def write(self, *line):
        self.lines.append(line)

    def write_text(self, *line):
        self.texts.append(line)


def results(updates=3):
    sums = MetricSums(*map(jnp.float32, (2000.0, 1000.0, 9.0, 3.0, 2.0)))
    return StepMetrics(sums, jnp.float32(2), jnp.float32(3), jnp.int32(0), jnp.int32(updates))


def report(setup, workdir):
    """Reports one line, one text and one note; returns the tracker."""
    tracker = Recorder()
    with Reporter(setup, workdir, 0, [tracker]) as made:
        made.report_training(5, results())
        made.write_text(5, "prompt", "text")
        made.note("a note")
        made.flush()
    return tracker


def test_metrics_go_to_the_folder_the_terminal_and_the_trackers(corpus, tmp_path, capsys):
    setup = SharingTrainer(tiny_run(corpus), tmp_path).setup
    tracker = report(setup, tmp_path)
    [line] = (tmp_path / "metrics.jsonl").read_text().splitlines()
    [(step, split, numbers)] = tracker.lines
    assert json.loads(line) == {"step": step, "split": split, **numbers}
    rate = float(setup.learning_rate(2))
    want = {"loss": 2.0, "bits_per_token": 2 / math.log(2), "gradient_norm": 3.0}
    want |= {"nonfinite_steps": 2, "learning_rate": rate, "padding": 1 - 1000 / (3 * 4 * 32)}
    assert {name: numbers[name] for name in want} == pytest.approx(want, rel=1e-6)
    assert tracker.texts == [(5, "prompt", "text")]
    out = capsys.readouterr().out
    assert "loss 2.000" in out and "a note" in out


def test_padding_is_told_once(corpus, tmp_path, capsys):
    setup = SharingTrainer(tiny_run(corpus), tmp_path).setup
    sums = results().sums._replace(tokens=jnp.float32(0.03 * 3 * 4 * 32))
    none = sums._replace(tokens=jnp.float32(0), steps=jnp.float32(0))
    with Reporter(setup, tmp_path, 0) as made:
        for step, each in ((5, none), (10, sums), (15, sums)):  # in step 5, no step was finite
            made.report_training(step, results()._replace(sums=each))
    out = capsys.readouterr().out
    assert out.count("padding") == 1
    assert "step 10: 97% of the positions in a batch are padding" in out


def test_other_processes_report_nothing(corpus, tmp_path, capsys, monkeypatch):
    config = tiny_run(corpus, wandb_project="blocks")
    setup = SharingTrainer(config, tmp_path).setup
    monkeypatch.setattr(reporter, "is_main_process", lambda: False)
    with open_trackers(config, tmp_path) as trackers:
        assert trackers == []
    tracker = report(setup, tmp_path)
    assert tracker.lines == tracker.texts == [] and list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


# Spikes


def spikes_of(path, losses, every=1):
    path.write_text("")
    spikes = LossSpikes(path, every)
    return [spikes.compare(step * every, loss) for step, loss in enumerate(losses, 1)]


def test_a_rising_loss_is_a_spike_and_a_falling_loss_is_not(tmp_path):
    falling = [5.0, 4.0, 3.0, 2.5, 2.2, 2.0]
    found = spikes_of(tmp_path / "metrics.jsonl", [*falling, 6.0, 2.0])
    assert [spike for _, spike in found] == [False] * 6 + [True, False]
    assert found[0][0] == 1.0 and found[6][0] == 6.0 / 2.75


def test_too_few_lines_and_lines_without_a_loss_make_no_spike(tmp_path):
    found = spikes_of(tmp_path / "metrics.jsonl", [2.0, 9.0, float("nan"), 2.0, 2.0, 2.0, 2.0])
    assert not any(spike for _, spike in found)


def test_a_loss_of_zero_is_no_spike(tmp_path):
    assert spikes_of(tmp_path / "metrics.jsonl", [0.0] * 6) == [(1.0, False)] * 6


def test_spikes_are_the_same_when_a_run_is_resumed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    losses = np.random.default_rng(0).uniform(1, 4, 30).tolist()
    want = spikes_of(path, losses, every=5)
    lines = [{"step": 5 * i, "split": "train", "loss": x} for i, x in enumerate(losses[:24], 1)]
    lines.insert(3, {"step": 17, "split": "train", "loss": 99.0})  # where a run was stopped
    lines.insert(9, {"step": 45, "split": "held_out", "loss": 99.0})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    spikes = LossSpikes(path, 5)
    assert [spikes.compare(5 * i, x) for i, x in enumerate(losses[24:], 25)] == want[24:]
