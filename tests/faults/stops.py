"""Trainings that are stopped at random moments, by SIGKILL or SIGTERM."""

from collections.abc import Callable

from block_recurrent.training.preemption import STOPPED_STATUS
from faults.place import Place
from faults.training import Training
from faults.tried import Tried

KILLS_A_RUN = 8
SECONDS_TO_NOTICE = 60  # until a process ends after it has lost another one


def killed(place: Place, times: int, processes: int) -> Tried:
    """SIGKILL to all processes at any moment: while they start, train, evaluate or save."""

    def strike(training: Training) -> bool:
        training.wait(place.random.uniform(0, place.undisturbed(processes)[1]))
        return training.kill()

    return _struck(place, times, processes, strike, f"SIGKILL at any moment, {_by(processes)}")


def killed_while_saving(place: Place, times: int, processes: int) -> Tried:
    """SIGKILL to all processes within the first quarter of a second of a save."""

    def strike(training: Training) -> bool:
        training.wait_until(training.is_saving)
        training.wait(place.random.uniform(0, 0.25))
        return training.kill()

    return _struck(place, times, processes, strike, f"SIGKILL during a save, {_by(processes)}")


def killed_while_evaluating(place: Place, times: int, processes: int) -> Tried:
    """SIGKILL to all processes within a second after an evaluation is due."""
    every = place.config.train.eval_every_steps

    def strike(training: Training) -> bool:
        training.wait_until(
            lambda: training.is_evaluating(every) and " loss " in training.read_output()
        )
        training.wait(place.random.uniform(0, 1))
        return training.kill()

    return _struck(
        place, times, processes, strike, f"SIGKILL when an evaluation is due, {_by(processes)}"
    )


def terminated(place: Place, times: int, processes: int) -> Tried:
    """SIGTERM to one process at any moment after its first step: all save and exit with 75."""

    def strike(training: Training) -> bool:
        training.wait_until(lambda: " loss " in training.read_output())
        training.wait(place.random.uniform(0, 1))
        training.terminate(place.random.randrange(processes))
        statuses = training.wait()
        expected = [STOPPED_STATUS] * processes, [0] * processes
        assert statuses in expected, f"{statuses}\n{training.read_output()}"
        return statuses[0] == STOPPED_STATUS

    return _struck(place, times, processes, strike, f"SIGTERM, {_by(processes)}")


def host_lost(place: Place, times: int) -> Tried:
    """SIGKILL to one of two processes: the other one exits by itself, and both can continue."""

    def strike(training: Training) -> bool:
        # Until then the processes wait for each other to start, as hosts do that boot one by one.
        training.wait_until(lambda: " loss " in training.read_output())
        training.wait(place.random.uniform(0, 1))
        if not training.is_alive():
            return False
        training.processes[place.random.randrange(2)].kill()
        statuses = training.wait(SECONDS_TO_NOTICE)
        assert None not in statuses and 0 not in statuses, f"{statuses}\n{training.read_output()}"
        return True

    return _struck(place, times, 2, strike, "one of two hosts lost")


def _by(processes: int) -> str:
    return f"{processes} process{'es' if processes > 1 else ''}"


def _struck(
    place: Place, times: int, processes: int, strike: Callable[[Training], bool], fault: str
) -> Tried:
    """Strikes each of several runs a few times, and then lets it continue to its end.

    Args:
      place: place of the runs.
      times: number of strikes in total.
      processes: number of processes of each run.
      strike: ends a training; returns False if the training had already ended.
      fault: name of the fault.
    """
    tried = survived = saves = 0
    while tried < times:
        workdir, here = place.workdir(), 0
        while here < min(KILLS_A_RUN, times - tried):
            with place.train(workdir, processes) as training:
                if not strike(training):
                    break
                here += 1
                saves += training.is_saving()
        tried += here
        survived += here * place.ends_well(workdir, processes)
    return Tried(fault, tried, survived, f"{saves} in the middle of a save")
