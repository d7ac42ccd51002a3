"""metrics.jsonl over stops and restarts, and TensorBoard's events."""

import json
import math
import os
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from block_recurrent.files.paths import workdir_path
from block_recurrent.reporting.metrics_log import MetricsLog, is_logged


def lines(workdir) -> list[dict]:
    def refuse(constant):
        raise AssertionError(f"{constant} is not valid JSON")

    text = (workdir / "metrics.jsonl").read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def write(workdir, resume_step, *steps):
    with MetricsLog(workdir, resume_step) as log:
        for step in steps:
            log.write(step, "train", {"loss": step / 10})


def events(workdir) -> list[Event]:
    """In the order of the names, as TensorBoard reads: length, checksum, event, checksum."""
    result = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            result.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return result


def scalars(workdir) -> list[tuple[int, str, float]]:
    found = [(e.step, v.tag, v.simple_value) for e in events(workdir) for v in e.summary.value]
    return [(step, tag, pytest.approx(value, rel=1e-6)) for step, tag, value in found]


def test_a_line_is_what_was_logged(tmp_path):
    with MetricsLog(tmp_path / "new" / "folder", None) as log:
        log.write(10, "train", {"loss": 2.5, "bits_per_byte": np.float32(3.5), "tokens": 7})
        log.write(10, "held_out", {"loss": jnp.float32(1.5)})
    assert lines(tmp_path / "new" / "folder") == [
        {"step": 10, "split": "train", "loss": 2.5, "bits_per_byte": 3.5, "tokens": 7},
        {"step": 10, "split": "held_out", "loss": 1.5},
    ]


def test_a_line_is_there_at_once(tmp_path):
    log = MetricsLog(tmp_path, None)
    log.write(1, "train", {"loss": 2.5})
    assert lines(tmp_path) == [{"step": 1, "split": "train", "loss": 2.5}]
    log.close()


def test_what_is_no_number_is_null(tmp_path):
    with MetricsLog(tmp_path, None) as log:
        log.write(1, "train", {"a": math.nan, "b": -math.inf, "c": jnp.nan, "d": 1.0})
    assert lines(tmp_path) == [
        {"step": 1, "split": "train", "a": None, "b": None, "c": None, "d": 1.0}
    ]


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path):
    write(tmp_path, None, 10, 20, 30, 40)
    write(tmp_path, 20, 30)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]


def test_texts_are_dropped_likewise(tmp_path):
    odd = "a\u2028b\x85c\x0cd\ne"  # what some take for the end of a line
    with MetricsLog(tmp_path, None) as log:
        for step in (10, 20, 30):
            log.write_text(step, "def ", f"main():\n{step}{odd}")
            log.write(step, "held_out", {})
    MetricsLog(tmp_path, 20).close()
    with MetricsLog(tmp_path, 20) as log:
        log.write_text(30, "def ", "again")
    text = (tmp_path / "samples.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.removesuffix("\n").split("\n")] == [
        {"step": 10, "prompt": "def ", "text": f"main():\n10{odd}"},
        {"step": 20, "prompt": "def ", "text": f"main():\n20{odd}"},
        {"step": 30, "prompt": "def ", "text": "again"},
    ]


def test_the_text_of_an_evaluation_that_was_cut_off_is_dropped(tmp_path):
    """Its metrics are missing, so that it will be repeated."""
    with MetricsLog(tmp_path, None) as log:
        log.write_text(10, "def ", "one")
        log.write(10, "held_out", {})
        log.write_text(20, "def ", "two")
        log.write(20, "train", {})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "split": "held_out"')
    for folder in (tmp_path, workdir_path(str(tmp_path))):  # a path of etils, as in commands
        assert is_logged(folder, 10, "held_out")
        assert not is_logged(folder, 20, "held_out")
    assert not is_logged(tmp_path / "none", 20, "held_out")
    MetricsLog(tmp_path, 20).close()
    texts = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in texts] == [10]


def test_tensorboard_shows_texts_as_they_are(tmp_path):
    with MetricsLog(tmp_path, None) as log:
        log.write_text(10, "def *a*:", "  <b>\n```")
    [(step, value)] = [(e.step, v) for e in events(tmp_path) for v in e.summary.value]
    assert (step, value.tag, value.metadata.plugin_data.plugin_name) == (
        10,
        "held_out/text/text_summary",
        "text",
    )
    [text] = value.tensor.string_val
    assert text == b"    def *a*:\n\n*the model writes:*\n\n      <b>\n    ```"


def test_a_new_run_drops_everything(tmp_path):
    """A run killed before its first checkpoint starts again from nothing."""
    write(tmp_path, None, 10, 20)
    write(tmp_path, None, 10)
    assert [line["step"] for line in lines(tmp_path)] == [10]


@pytest.mark.parametrize("torn", ['{"step": 2', '{"step": 20, "lo', "{", '{"step"', "\x00\x00"])
def test_resuming_drops_a_line_half_written(tmp_path, torn):
    write(tmp_path, None, 10)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(torn)
    write(tmp_path, 50, 60)
    assert [line["step"] for line in lines(tmp_path)] == [10, 60]


def test_a_whole_line_without_its_newline_stays(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10}\n{"step": 20}')
    write(tmp_path, 50, 60)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 60]


def test_the_file_is_whole_at_every_moment(tmp_path, monkeypatch):
    """What is there is replaced by one rename, never emptied and written again."""
    write(tmp_path, None, 10, 20)
    before = (tmp_path / "metrics.jsonl").read_text()
    replaced = []

    def replace(source, target):
        assert (tmp_path / "metrics.jsonl").read_text() == before
        assert open(source).read() == before.splitlines(keepends=True)[0]
        replaced.append(target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(tmp_path, 10)
    assert replaced == [tmp_path / "metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_stopped_and_continued_equals_uninterrupted(tmp_path):
    write(tmp_path / "whole", None, 10, 20, 30, 40)
    write(tmp_path / "parts", None, 10, 20, 30)
    write(tmp_path / "parts", 20, 30, 40)
    whole, parts = (tmp_path / name / "metrics.jsonl" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_tensorboard_has_the_same_numbers_and_forgets_the_same(tmp_path):
    write(tmp_path, None, 10, 20)
    with MetricsLog(tmp_path, 10) as log:
        assert log.purge_step == 11
        log.write(20, "held_out", {"loss": 9.0, "bits_per_byte": 3.0})
    assert scalars(tmp_path) == [
        (10, "train/loss", 1.0),
        (20, "train/loss", 2.0),
        (20, "held_out/loss", 9.0),
        (20, "held_out/bits_per_byte", 3.0),
    ]
    starts = [e.step for e in events(tmp_path) if e.HasField("session_log")]
    assert starts == [0, 11]
