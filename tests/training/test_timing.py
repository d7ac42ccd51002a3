"""The time that a run has taken and still takes, without what happens only once."""

import pytest

from block_recurrent.config.train_options import TrainConfig
from block_recurrent.training.timing import RunTimer


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def timer_of(first_step=0, **train):
    clock = Clock()
    return RunTimer(TrainConfig(**train), first_step, clock=clock), clock


def test_pauses_do_not_count_as_time_of_the_steps():
    timer, clock = timer_of(num_steps=100)
    with timer.waiting_for_data():
        clock.seconds += 2
    with timer.pause("evaluation"):
        clock.seconds += 500
    clock.seconds += 8
    assert timer.lap(10) == (10, 2)
    clock.seconds += 4
    assert timer.lap(20) == (4, 0)


def test_the_time_left_counts_from_the_step_resumed_at():
    timer, clock = timer_of(900, num_steps=1000)
    clock.seconds += 30
    timer.lap(950)
    assert timer.seconds_left() == 30
    clock.seconds += 30
    timer.lap(1000)
    assert timer.seconds_left() == 0


def test_a_slow_first_lap_is_soon_forgotten():
    timer, clock = timer_of(num_steps=1000)
    for step in range(10, 101, 10):
        clock.seconds += 60 if step == 10 else 1
        timer.lap(step)
    assert timer.seconds_left() == pytest.approx(90)


@pytest.mark.parametrize(
    "step, evaluations, checkpoints",
    [(10, 4, 5), (300, 4, 5), (301, 3, 4), (600, 3, 3), (1000, 1, 1)],
)
def test_coming_evaluations_and_checkpoints_take_as_long_as_the_last_ones(
    step, evaluations, checkpoints
):
    """Evaluations after 300, 600, 900 and 1000; checkpoints then, and after 500."""
    every = {"eval_every_steps": 300, "checkpoint_every_steps": 500}
    timer, clock = timer_of(num_steps=1000, **every)
    for kind, seconds in (("evaluation", 900), ("evaluation", 20), ("checkpoint", 3), ("other", 7)):
        with timer.pause(kind):
            clock.seconds += seconds
    clock.seconds += step
    timer.lap(step)
    assert timer.seconds_left() == 1000 - step + 20 * evaluations + 3 * checkpoints
