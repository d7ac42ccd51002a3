"""Runs the programs that are compared, each in its own process, in turns.

Two programs on one machine see the same disturbances only if they run within moments of each other.
A round therefore runs one step of each, in changing order, and what counts is the ratio within a
round.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

# Several programs share a GPU, though one runs at a time: none may reserve all its memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

WORKERS = Path(__file__).parent / "workers"
OURS = WORKERS.parent.parent


@dataclasses.dataclass(frozen=True)
class Contender:
    """A program to compare.

    Attributes:
      name: in the tables.
      worker: its script, in a folder workers/.
      spec: what the worker builds, as JSON.
      path: is put first on PYTHONPATH.
      python: the interpreter.
    """

    name: str
    worker: Path
    spec: dict
    path: Path | None = None
    python: str = sys.executable


def ours(
    name: str,
    spec: dict,
    *,
    tree: Path = OURS,
    worker: str = "ours",
    python: str = sys.executable,
) -> Contender:
    """block_recurrent in a checkout, run by that checkout's own worker, which fits its modules."""
    tree = tree.resolve()
    return Contender(name, tree / "benchmarks" / "workers" / f"{worker}.py", spec, tree, python)


class Worker:
    """The process of a contender, which has built and warmed up its program."""

    def __init__(self, contender: Contender):
        self.contender, self.name = contender, contender.name
        path = [contender.path, os.environ.get("PYTHONPATH")]
        path = os.pathsep.join(str(entry) for entry in path if entry)
        self.process = subprocess.Popen(
            [contender.python, contender.worker, json.dumps(contender.spec)],
            env=os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if contender.spec.get("quiet", True) else None,
            text=True,
            bufsize=1,
        )
        self.facts = self.answer()

    def answer(self) -> dict:
        """The next line from the worker. Raises RuntimeError if it has ended."""
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            raise RuntimeError(f"{self.name} ended without an answer:\n{(errors or '')[-2000:]}")
        return json.loads(line)

    def run(self, measure: str) -> dict:
        """Runs a measure. Returns its wall-clock and processor seconds, and the peak memory."""
        print(measure, file=self.process.stdin)
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def in_turns(measured: list[tuple[Worker, str]], rounds: int) -> list[list[dict]]:
    """Runs each worker's measure once per round. Returns the results by measure and round."""
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
    """The median over rounds of the ratio within a round."""
    return statistics.median(a[key] / b[key] for a, b in zip(runs, reference, strict=True))
