"""Trainings that are stopped, by force or politely, at random moments."""

from collections.abc import Callable

from block_recurrent.training.preemption import EXIT_STATUS
from faults.place import Place
from faults.training import Training
from faults.tried import Tried

KILLS_A_RUN = 8
SECONDS_TO_NOTICE = 60  # until a process ends that has lost another


def killed(place: Place, times: int, processes: int) -> Tried:
    """SIGKILL to all at any moment of a run: while it starts, trains, evaluates or saves."""

    def strike(training: Training) -> bool:
        training.wait(place.random.uniform(0, place.calm(processes)[1]))
        return training.kill()

    return _struck(place, times, processes, strike, f"SIGKILL at any moment, {_by(processes)}")


def killed_while_saving(place: Place, times: int, processes: int) -> Tried:
    """SIGKILL to all processes within the first quarter of a second of a save."""

    def strike(training: Training) -> bool:
        training.wait_until(lambda: training.saving)
        training.wait(place.random.uniform(0, 0.25))
        return training.kill()

    return _struck(place, times, processes, strike, f"SIGKILL during a save, {_by(processes)}")


def terminated(place: Place, times: int, processes: int) -> Tried:
    """SIGTERM to one process, any time from its first step on: all save and exit with 75."""

    def strike(training: Training) -> bool:
        training.wait_until(lambda: " loss " in training.output)
        training.wait(place.random.uniform(0, 1))
        training.terminate(place.random.randrange(processes))
        statuses = training.wait()
        expected = [EXIT_STATUS] * processes, [0] * processes
        assert statuses in expected, f"{statuses}\n{training.output}"
        return statuses[0] == EXIT_STATUS

    return _struck(place, times, processes, strike, f"SIGTERM, {_by(processes)}")


def host_lost(place: Place, times: int) -> Tried:
    """SIGKILL to one of two processes: the other one ends by itself, and both can go on."""

    def strike(training: Training) -> bool:
        # Before that they would wait for each other to start, as hosts that come up one by one do.
        training.wait_until(lambda: " loss " in training.output)
        training.wait(place.random.uniform(0, 1))
        if not training.alive:
            return False
        training.processes[place.random.randrange(2)].kill()
        statuses = training.wait(SECONDS_TO_NOTICE)
        assert None not in statuses and 0 not in statuses, f"{statuses}\n{training.output}"
        return True

    return _struck(place, times, 2, strike, "one of two hosts lost")


def _by(processes: int) -> str:
    return f"{processes} process{'es' if processes > 1 else ''}"


def _struck(
    place: Place, times: int, processes: int, strike: Callable[[Training], bool], fault: str
) -> Tried:
    """Runs, each of them struck until it has had enough, and then left to its end.

    Args:
      place: of the runs.
      times: strikes in all.
      processes: of each run.
      strike: ends a training that is alive; False if that had ended before.
      fault: its name.
    """
    tried = survived = saves = 0
    while tried < times:
        workdir, here = place.workdir(), 0
        while here < min(KILLS_A_RUN, times - tried):
            with place.train(workdir, processes) as training:
                if not strike(training):
                    break
                here += 1
                saves += training.saving
        tried += here
        survived += here * place.ends_well(workdir, processes)
    return Tried(fault, tried, survived, f"{saves} in the middle of a save")
