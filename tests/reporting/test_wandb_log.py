"""Weights & Biases: the real package, offline."""

import dataclasses
import json
import struct
import sys
import time
import types

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from block_recurrent import UserError
from block_recurrent.config.run_config import RunConfig
from block_recurrent.reporting.wandb_log import WandbLog, check_wandb


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


FIRST, MIDDLE = 2, 3  # parts of a record that continues in the next block


def records(workdir) -> list[list[Record]]:
    """What W&B has stored to be sent, each time that the run was started."""
    paths = sorted(workdir.glob("wandb/offline-run-*/*.wandb"))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:  # the end is written by another process, a little later
        found = [read_log(path.read_bytes()) for path in paths]
        if all(any(record.HasField("exit") for record in run) for run in found):
            return found
        time.sleep(0.05)
    raise AssertionError("a run has no end")


def read_log(data: bytes) -> list[Record]:
    """The complete records of a log, whose format is LevelDB's."""
    place, whole, found = 7, b"", []
    while place + 7 <= len(data):
        if (left := -place % 2**15) and left < 7:  # no room for a header in this block
            place += left
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if place + 7 + length > len(data):
            break
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind not in (FIRST, MIDDLE):
            found.append(Record.FromString(whole))
            whole = b""
    return found


def history(run) -> list[dict]:
    lines = [
        {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for record in run
        if record.HasField("history")
    ]
    return [{key: v for key, v in line.items() if not key.startswith("_")} for line in lines]


@pytest.mark.slow
def test_the_same_numbers_and_texts_as_one_run_over_a_restart(tmp_path):
    for step in (10, 20):
        with WandbLog("blocks", tmp_path, dataclasses.asdict(RunConfig())) as log:
            log.write(step, "train", {"loss": step / 4})
            log.write_text(step, "a<b>", "c&d")
        time.sleep(1)  # W&B names its folders by the second
    one, other = records(tmp_path)
    runs = [record.run for run in (one, other) for record in run if record.HasField("run")]
    identity = {(run.run_id, run.project, run.display_name) for run in runs}
    assert identity == {((tmp_path / "wandb_id").read_text(), "blocks", tmp_path.name)}
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert config["train"]["num_steps"] == RunConfig().train.num_steps
    for run, step in ((one, 10), (other, 20)):
        numbers, text = history(run)
        assert numbers == {"step": step, "train/loss": step / 4}
        assert text["step"] == step
    [axis] = {r.metric.step_metric for r in one if r.HasField("metric") and r.metric.glob_name}
    assert axis == "step"
    pages = [path.read_text() for path in tmp_path.rglob("*.html")]
    assert pages == ["<pre>a&lt;b&gt;<b>c&amp;d</b></pre>"] * 2
    exits = [record.exit.exit_code for record in one if record.HasField("exit")]
    assert exits == [0]


def test_a_failed_run_is_marked_as_failed(tmp_path):
    with pytest.raises(KeyboardInterrupt), WandbLog("blocks", tmp_path, {}):
        raise KeyboardInterrupt
    [run] = records(tmp_path)
    assert [record.exit.exit_code for record in run if record.HasField("exit")] == [1]


def test_a_refusal_is_one_line(tmp_path, monkeypatch):
    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login`")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match="UsageError: No API key configured.*: wandb login") as it:
        WandbLog("blocks", tmp_path, {})
    assert "\n" not in str(it.value)


@pytest.mark.parametrize("module", [None, types.ModuleType("wandb")])
def test_without_the_package(module, monkeypatch):
    """Not installed, or only a folder of that name exists."""
    check_wandb("blocks")
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(UserError, match="train.wandb_project = 'blocks' .*: pip install wandb, or"):
        check_wandb("blocks")
    check_wandb(None)
