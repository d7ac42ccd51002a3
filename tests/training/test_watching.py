"""Monitoring of a run: heartbeat, notes about slow steps, metrics over HTTP."""

import dataclasses
import json
import socket
import threading
import time
import urllib.request

import pytest

from block_recurrent import UserError
from block_recurrent.config.train_options import WatchConfig
from block_recurrent.training.watching import FIRST_LIMIT, MIN_LIMIT, Watch
from corpus import tiny_run
from runs import SharingTrainer, after_evaluations


class Clock:
    """A clock that only advances when a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def watch_of(path=None, **config):
    """A watch whose thread is not started, its clock, and the list of its notes."""
    clock, notes = Clock(), []
    return Watch(path, WatchConfig(**config), notes.append, clock=clock), clock, notes


def take_steps(watch, clock, number, seconds):
    for _ in range(number):
        watch.step(watch.done + 1)
        clock.now += seconds
        watch.measured(watch.done)


@pytest.mark.parametrize("what", ["waiting for data", "waiting for the device"])
def test_a_slow_step_is_reported_once_with_what_it_waits_for(what):
    watch, clock, notes = watch_of()
    take_steps(watch, clock, 5, 1.0)
    with watch.at(what):
        clock.now += 9.9
        watch.poll()
        assert notes == []
        for _ in range(3):
            clock.now += 1
            watch.poll()
    assert notes == [f"step 6 has taken 11 s, 11 × the median: {what}"]
    with watch.at(what):
        clock.now += 30
        watch.poll()
    assert notes[1:] == [f"step 6 has taken 30 s, 30 × the median: {what}"]


def test_the_median_is_over_stretches_and_pauses_do_not_count():
    watch, clock, notes = watch_of(slow_factor=2.0)
    for stretch in (40.0, 4.0, 4.0):
        watch.step(watch.done + 4)
        clock.now += stretch
        watch.measured(watch.done)
        clock.now += 1000
        watch.paused()
    assert list(watch.step_seconds) == [10.0, 1.0, 1.0]
    watch.step(watch.done + 6)  # dispatched to the device, but not computed
    with watch.at("waiting for the device"):
        clock.now += 12
        watch.poll()
        assert notes == []
        clock.now += 1
        watch.poll()
    assert notes == ["step 19 has taken 13 s, 2 × the median: waiting for the device"]


def test_only_long_waits_are_reported():
    watch, clock, notes = watch_of()
    take_steps(watch, clock, 3, 0.001)
    with watch.at("evaluating"):
        clock.now += 10_000
        watch.poll()
    with watch.at("waiting for data"):
        clock.now += MIN_LIMIT
        watch.poll()
    assert notes == []


def test_the_first_step_may_take_a_minute():
    watch, clock, notes = watch_of()
    with watch.at("waiting for data"):
        clock.now += FIRST_LIMIT
        watch.poll()
        assert notes == []
        clock.now += 1
        watch.poll()
    assert notes == ["step 1 has taken 61 s: waiting for data"]


def test_a_heartbeat_is_written_when_the_loop_moves_on_and_not_too_often(tmp_path):
    path = tmp_path / "heartbeat.json"
    watch, clock, _ = watch_of(path)
    watch.poll()
    beat = json.loads(path.read_text())
    assert beat["step"] == 0 and beat["doing"] == "starting"
    assert abs(beat["time"] - time.time()) < 60
    path.unlink()
    take_steps(watch, clock, 2, 1.0)
    watch.poll()
    assert not path.exists(), "five seconds have not passed"
    clock.now += 10
    watch.poll()
    assert not path.exists(), "nothing has moved"
    with watch.at("waiting for data"):
        watch.poll()
        assert json.loads(path.read_text())["doing"] == "waiting for data"
    assert json.loads(path.read_text())["step"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["heartbeat.json"]


def test_every_batch_of_an_evaluation_renews_the_heartbeat(tmp_path):
    path = tmp_path / "heartbeat.json"
    watch, clock, _ = watch_of(path)
    with watch.at("evaluating"):
        watch.poll()
        path.unlink()
        clock.now += 10
        watch.poll()
        assert not path.exists(), "stuck"
        watch.advance()
        watch.poll()
        assert json.loads(path.read_text())["doing"] == "evaluating"


def test_a_heartbeat_that_cannot_be_written_stops_nothing(tmp_path):
    with Watch(tmp_path / "missing" / "heartbeat.json", WatchConfig(), print) as watch:
        watch.poll()


# In a run


def test_a_run_leaves_a_heartbeat(corpus, tmp_path):
    assert SharingTrainer(tiny_run(corpus), tmp_path).run()
    beat = json.loads((tmp_path / "heartbeat.json").read_text())
    assert beat["step"] == 12 and beat["doing"] == "ended"
    assert not [thread for thread in threading.enumerate() if thread.name == "watch"]


@pytest.mark.slow
def test_a_stuck_reader_is_reported(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("block_recurrent.training.watching.MIN_LIMIT", 0.4)
    monkeypatch.setattr("block_recurrent.training.watching.POLL_INTERVAL", 0.05)
    trainer = SharingTrainer(tiny_run(corpus, log_every_steps=5), tmp_path)
    lanes, batches = trainer.setup.lanes, []
    read = lanes.read

    def stuck(*arguments):
        batches.append(None)
        if len(batches) == 12:
            time.sleep(3)
        return read(*arguments)

    lanes.read = stuck
    assert trainer.run()
    slow = [line for line in capsys.readouterr().out.splitlines() if "has taken" in line]
    assert any("× the median: waiting for data" in line for line in slow)


def test_a_run_publishes_its_metrics(corpus, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = tiny_run(corpus)
        config = dataclasses.replace(config, watch=WatchConfig(port=port))
        with pytest.raises(UserError, match=f"watch.port = {port}: cannot listen there"):
            SharingTrainer(config, tmp_path).run()
    pages = []

    def ask():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            pages.append(answer.read().decode())

    assert after_evaluations(SharingTrainer(config, tmp_path), ask).run()
    assert 'block_recurrent_step{split="train"} 12.0' in pages[-1]
    assert 'block_recurrent_bits_per_byte{split="held_out"}' in pages[-1]
