"""Progress of training and of prepare_data: as a bar in a terminal, and in lines."""

import contextlib
import io
import math
import os
import pty
import time

import pytest

from block_recurrent.console.progress import (
    EvaluationPace,
    EvaluationProgress,
    PrepareProgress,
    Progress,
    duration,
)


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_without_a_terminal_every_update_is_a_line():
    stream = io.StringIO()
    with Progress(1000, stream=stream) as progress:
        metrics = {"loss": 2.34567, "bits_per_byte": 3.38, "tokens_per_second": 12345.6}
        progress.update(10, {**metrics, "learning_rate": 0.1}, 495.0)
        progress.update(20, {"bits_per_byte": 3.38, "text_lost": 0.25}, 245.0)
        progress.update(30, {"bits_per_byte": 3.38, "text_lost": 0.0001}, 162.0)
        progress.note("held-out [bold]")
        progress.update(1000, {"loss": math.nan}, 0.0)
    assert stream.getvalue().splitlines() == [
        "step   10/1000  loss 2.346  3.380 bits/byte  12,346 tokens/s  8 min 15 s left",
        "step   20/1000  3.380 bits/byte (not comparable)  4 min 05 s left",
        "step   30/1000  3.380 bits/byte  2 min 42 s left",
        "held-out [bold]",
        "step 1000/1000  loss nan  0 s left",
    ]


def test_an_evaluation_that_takes_long_is_shown_every_few_seconds():
    """The first batch does not count, since it includes compilation."""
    stream, clock = io.StringIO(), Clock()
    with Progress(1000, stream=stream, clock=clock) as progress:
        with progress.evaluation(500) as show:
            show("evaluating", 0, 100_000)
            for done in range(10_000, 100_001, 10_000):
                clock.seconds += 60 if done == 10_000 else 2
                show("evaluating", done, 100_000)
            show("memory worth", 0, 30_000)
            for done in (10_000, 20_000, 30_000):
                clock.seconds += 2.5
                show("memory worth", done, 30_000)
        with progress.evaluation(510) as show:  # a quick one
            for done in range(0, 100_001, 10_000):
                show("evaluating", done, 100_000)
                clock.seconds += 0.1
    assert stream.getvalue().splitlines() == [
        "step  500/1000  evaluating 40%  5,000 tokens/s  12 s left",
        "step  500/1000  evaluating 70%  5,000 tokens/s  6 s left",
        "step  500/1000  evaluating 100%  5,000 tokens/s  0 s left",
        "step  500/1000  memory worth 100%  4,000 tokens/s  0 s left",
    ]


def test_the_pace_of_an_evaluation_in_a_terminal():
    clock = Clock()
    pace = EvaluationPace(True, clock)
    assert pace.numbers("evaluating", 0, 100) == ["evaluating"], "at once, while it is compiled"
    clock.seconds += 60
    assert pace.numbers("evaluating", 10, 100) == []
    clock.seconds += 0.25
    assert pace.numbers("evaluating", 20, 100) == ["evaluating 20%", "40 tokens/s", "2 s left"]


def test_evaluate_shows_progress_on_standard_error(monkeypatch, capfd):
    clock = Clock()
    monkeypatch.setattr("block_recurrent.console.progress.working_seconds", clock)
    with EvaluationProgress() as progress:
        for done in (0, 100, 300, 500):
            progress.update("evaluating", done, 500)
            clock.seconds += 4
    assert capfd.readouterr() == ("", "evaluating 100%  50 tokens/s  0 s left\n")


def test_durations():
    texts = [duration(s) for s in (0.4, 59.4, 60.0, 605.0, 3599.7, 7620.0)]
    assert texts == ["0 s", "59 s", "1 min 00 s", "10 min 05 s", "1 h 00 min", "2 h 07 min"]


def in_terminal(act) -> str:
    """What `act(stream)` prints to a terminal."""
    parent, child = pty.openpty()
    with os.fdopen(child, "w") as stream:
        act(stream)
    text = b""
    with contextlib.suppress(OSError):  # which is how Linux says that the other end is closed
        while data := os.read(parent, 1 << 16):
            text += data
    os.close(parent)
    return text.decode()


def test_in_a_terminal_a_bar_goes_and_the_cursor_comes_back(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")

    def act(stream):
        with pytest.raises(KeyboardInterrupt), Progress(20, 5, stream=stream) as progress:
            progress.update(10, {"loss": 2.5}, 7.0)
            progress.note("held-out [bold]")
            with progress.evaluation(10) as show:
                show("evaluating", 0, 100)
                time.sleep(0.5)  # the bar is drawn ten times a second
                progress.note("here")
            time.sleep(0.5)
            progress.note("there")
            raise KeyboardInterrupt

    text = in_terminal(act)
    assert "held-out [bold]" in text and "10/20" in text and "loss 2.500" in text
    before, after = text.partition("there")[0].split("here")
    assert "evaluating" in before and "loss" in after.rpartition("step")[2]
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is shown again"


def test_a_terminal_that_cannot_draw_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    text = in_terminal(lambda stream: Progress(20, stream=stream).update(10, {"loss": 2.5}, 7.0))
    assert text.startswith("step 10/20  loss 2.500") and "\x1b" not in text


def test_prepare_progress_in_lines():
    now, stream = [0.0], io.StringIO()
    with PrepareProgress(stream=stream, clock=lambda: now[0]) as progress:
        for now[0], tokens in [(1, 100), (5, 0), (6, 12_000), (7, 13_000), (12, 18_000)]:  # noqa: B020
            progress.update(tokens // 100, tokens, tokens / 36_000)
    assert stream.getvalue() == (
        " 33%  120 documents  12,000 tokens  2,000 tokens/s  12 s left\n"
        " 50%  180 documents  18,000 tokens  1,500 tokens/s  12 s left\n"
    )
