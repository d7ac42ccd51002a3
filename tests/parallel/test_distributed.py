"""Real processes that train together, with gloo collectives over loopback."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from block_recurrent.config.device_options import DistributedConfig
from block_recurrent.config.run_config import to_gin
from block_recurrent.errors import UserError
from block_recurrent.model.transformer import abstract_model
from block_recurrent.parallel.processes import connect, detect_cluster
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.workdir import load_run, read_config
from corpus import tiny_run, write_corpus

ROOT = Path(__file__).parents[2]


def start(workdir: Path, config: Path, processes: int, devices: int, *bindings: str, folders=None):
    """Starts processes with this total number of devices, each in its own folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_NUM_CPU_DEVICES": str(devices // processes),
    }
    command = [sys.executable, "-m", "block_recurrent.train", f"--gin_file={config}"]
    command += [f"--workdir={workdir}", *(f"--gin_bindings={binding}" for binding in bindings)]
    if processes > 1:
        command += [f"--coordinator_address={address}", f"--num_processes={processes}"]
    return [
        subprocess.Popen(
            command + ([f"--process_id={index}"] if processes > 1 else []),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folders[index] if folders else None,
        )
        for index in range(processes)
    ]


def finish(processes, timeout=240) -> list[tuple[int, str]]:
    """Exit status and output of each process."""
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, out) for process, out in zip(processes, outputs, strict=True)]


def run(*arguments) -> str:
    """Runs processes, which must succeed. Returns what the first one printed."""
    results = finish(start(*arguments))
    assert [status for status, _ in results] == [0] * len(results), results
    return results[0][1]


def metrics(workdir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for of_the_clock in ("tokens_per_second", "waiting_for_data"):
            line.pop(of_the_clock, None)
    return lines


def assert_close(workdir: Path, other: Path):
    """Asserts the same steps, and the same numbers up to rounding."""
    for line, expected in zip(metrics(workdir), metrics(other), strict=True):
        assert line.pop("split") == expected.pop("split")
        if "memory_worth" in expected:  # a difference of two losses, with the errors of both
            worth = expected.pop("memory_worth")
            assert line.pop("memory_worth") == pytest.approx(worth, rel=0, abs=2e-4)
        assert line == pytest.approx(expected, rel=2e-4)
    _, abstract = abstract_model(read_config(workdir).model)
    trees = []
    for folder in (workdir, other):
        with Checkpoints(folder, read_only=True) as checkpoints:
            step = checkpoints.find_latest_intact()
            trees.append(jax.tree.leaves(checkpoints.restore_params(abstract, step)))
    for a, b in zip(*trees, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A gin file of a run with dropout, lanes that take turns, samples and averaged weights."""
    folder = tmp_path_factory.mktemp("distributed")
    texts = write_corpus(folder / "texts")
    kept = {"keep_checkpoints": 1, "keep_best": 1, "average_decay": 0.9}
    run = tiny_run(texts, sample_tokens=8, sample_prompt="the ", lanes=12, **kept)
    path = folder / "run.gin"
    path.write_text(to_gin(run))
    return path


@pytest.fixture(scope="module")
def alone(config):
    """One process with four devices."""
    run(workdir := config.parent / "alone", config, 1, 4)
    return workdir


@pytest.mark.slow
def test_two_processes_equal_one(config, alone):
    out = run(workdir := config.parent / "together", config, 2, 4, "mesh.fsdp = 4")
    assert "on 4 cpu device(s)" in out
    gin = (workdir / "config.gin").read_text()
    assert "distributed.coordinator_address = None" in gin, "one process must be able to run it"
    assert_close(workdir, alone)
    for folder in (workdir, alone):
        texts = (folder / "samples.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in texts] == [6, 12]
    splits = [line["split"] for line in metrics(workdir) if line["step"] == 12]
    assert splits == ["train", "held_out_averaged", "held_out"]
    averaged = [load_run(folder, weights="averaged").model for folder in (workdir, alone)]
    for a, b in zip(*(jax.tree.leaves(nnx.state(model)) for model in averaged), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
    kept = [
        sorted(path.name for path in (each / "checkpoints").iterdir()) for each in (workdir, alone)
    ]
    assert kept[0] == kept[1] and "12" in kept[0]


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_with_parts_of_segments_equal_one_device(config):
    """Without dropout, whose masks would repeat in these short parts."""
    whole, parts = config.parent / "whole", config.parent / "parts"
    no_dropout = "BlockRecurrentTransformer.dropout_rate = 0.0"
    run(whole, config, 1, 1, no_dropout)
    run(parts, config, 2, 4, no_dropout, "mesh.sequence = 4")
    assert_close(parts, whole)


@pytest.mark.slow
def test_two_processes_are_stopped_and_one_continues(config, alone):
    """SIGTERM to one process stops both after the same step; one process continues the run."""
    workdir = config.parent / "elastic"
    processes = start(workdir, config, 2, 4, "train.num_steps = 100")
    log = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    results = finish(processes)
    assert [status for status, _ in results] == [75, 75], results
    (step,) = {line["step"] for line in metrics(workdir)[-1:]}
    assert step < 100
    out = run(workdir, config, 1, 2, "train.num_steps = 100", "mesh.data = 1", "mesh.fsdp = 2")
    assert "continuing from step" in out
    trained = [line for line in metrics(workdir) if line["split"] == "train"]
    assert [line["step"] for line in trained] == [*range(5, 101, 5)]


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_are_stopped_during_an_evaluation(tmp_path):
    """SIGTERM to one process stops both after the same batch. They make up for it later."""
    texts = write_corpus(tmp_path / "texts")
    (texts / "novel.txt").write_text("the state of a block " * 10_000)  # held out by its name
    config = tmp_path / "run.gin"
    config.write_text(to_gin(tiny_run(texts, num_steps=6, log_every_steps=6)))
    log = tmp_path / "run" / "metrics.jsonl"
    processes = start(log.parent, config, 2, 2)
    deadline = time.monotonic() + 200
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)  # until the evaluation, which takes longer than that, has begun
    processes[1].send_signal(signal.SIGTERM)
    results = finish(processes)
    assert [status for status, _ in results] == [75, 75], results
    with Checkpoints(log.parent, read_only=True) as checkpoints:
        assert checkpoints.find_latest_intact() == 6
    assert [line["split"] for line in metrics(log.parent)] == ["train"]
    assert "continuing from step 6" in run(log.parent, config, 2, 2)
    assert [line["split"] for line in metrics(log.parent)] == ["train", "held_out"]


@pytest.mark.slow
def test_a_lost_process_ends_the_others(config):
    processes = start(
        config.parent / "lost",
        config,
        2,
        2,
        "train.num_steps = 100000",
        "distributed.heartbeat_seconds = 10",
    )
    log = config.parent / "lost" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].kill()
    began = time.monotonic()
    (status, out), _ = finish(processes, 120)
    assert status != 0 and time.monotonic() - began < 60, out


@pytest.mark.slow
def test_a_failing_process_shows_its_error_and_ends_all(config):
    """The corpus exists only on one of two hosts."""
    first, second = (config.parent / name for name in ("first", "second"))
    write_corpus(first / "texts")
    second.mkdir()
    bindings = "data.path = 'texts'", "distributed.heartbeat_seconds = 10"
    workdir = config.parent / "failed"
    processes = start(workdir, config, 2, 2, *bindings, folders=(first, second))
    (waiting, _), (failed, out) = finish(processes, 120)
    assert failed == 2 and "error: data.path = 'texts' does not exist" in out
    assert waiting != 0 and not (workdir / "config.gin").exists()


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        ({"SLURM_NTASKS": "1"}, None),
        ({"SLURM_NTASKS": "2"}, "slurm"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "ompi"),
    ],
)
def test_clusters_are_detected(environment, expected, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert detect_cluster("auto", environment) == expected
    assert detect_cluster("none", environment) is None
    assert detect_cluster("tpu", environment) == "tpu"


def test_incomplete_address_is_refused():
    with pytest.raises(UserError, match="give all three"):
        connect(DistributedConfig(num_processes=2))
    config = DistributedConfig(coordinator_address="127.0.0.1:1", num_processes=2)
    with pytest.raises(UserError, match="process_id = 2: choose from 0 to 1"):
        connect(dataclasses.replace(config), 2)
