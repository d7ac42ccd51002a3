"""Programs to be compared, each in a process of its own, run in turns.

Two programs on one machine see the same disturbances only if they run within moments of each other:
so a round runs one step of each, in changing order, and the ratio within a round is what counts.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

# Several programs share a GPU, one of them at work: none may take all its memory in advance.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

HERE = Path(__file__).parent
OURS = HERE.parent


@dataclasses.dataclass(frozen=True)
class Contender:
    """One program: a file of workers/, the Python that runs it, what it finds on its path."""

    name: str
    worker: str
    spec: dict
    path: tuple[str, ...] = ()
    python: str = sys.executable


class Worker:
    """A contender that runs, built and warmed up."""

    def __init__(self, contender: Contender):
        self.contender, self.name = contender, contender.name
        path = os.pathsep.join([*contender.path, os.environ.get("PYTHONPATH", "")]).strip(
            os.pathsep
        )
        self.process = subprocess.Popen(
            [contender.python, HERE / "workers" / f"{contender.worker}.py"]
            + [json.dumps(contender.spec)],
            env=os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if contender.spec.get("quiet", True) else None,
            text=True,
            bufsize=1,
        )
        self.facts = self.answer()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            raise RuntimeError(f"{self.name} ended:\n{(errors or '')[-2000:]}")
        return json.loads(line)

    def run(self, measure: str) -> dict:
        """Seconds of one run, by the clock and of processor time."""
        print(measure, file=self.process.stdin)
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def in_turns(measured: list[tuple[Worker, str]], rounds: int) -> list[list[dict]]:
    """What `Worker.run` says, for each worker and measure by round."""
    runs = [[{}] * rounds for _ in measured]
    for i in range(rounds):
        for k in range(len(measured)):
            index = (i + k) % len(measured)
            worker, measure = measured[index]
            runs[index][i] = worker.run(measure)
    return runs


def median(runs: list[dict], key: str = "seconds") -> float:
    return statistics.median(run[key] for run in runs)


def ratio(runs: list[dict], reference: list[dict], key: str = "seconds") -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(a[key] / b[key] for a, b in zip(runs, reference, strict=True))
