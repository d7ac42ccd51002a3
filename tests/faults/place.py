"""A corpus, a configuration, and folders for undisturbed and for disturbed runs."""

import random
import time
from pathlib import Path

from block_recurrent.config.run_config import RunConfig, to_gin
from corpus import tiny_run, write_corpus
from faults.training import Training
from runs import assert_same_end

STEPS = {"num_steps": 40, "eval_every_steps": 20, "checkpoint_every_steps": 4, "keep_best": 1}


class Place:
    """A folder in which faults are tried.

    Args:
      folder: where everything is written.
      config: configuration of the runs; None: 40 tiny steps, with a checkpoint every 4 steps.
      seed: seed of the random moments.
    """

    def __init__(self, folder: Path, config: RunConfig | None = None, seed: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.random = folder, random.Random(seed)
        self.config = config or tiny_run(write_corpus(folder / "texts"), **STEPS)
        self.gin = folder / "run.gin"
        self.gin.write_text(to_gin(self.config))
        self.runs = self.trainings = 0
        self.undisturbed_runs: dict[int, tuple[Path, float]] = {}

    def undisturbed(self, processes: int = 1) -> tuple[Path, float]:
        """The folder of an undisturbed run with this many processes, and its seconds."""
        if processes not in self.undisturbed_runs:
            # The very first run waits for imports and for the compiler.
            for name, options in (("first", ("train.num_steps = 1",)), ("undisturbed", ())):
                workdir, began = self.folder / f"{name}_{processes}", time.monotonic()
                with self.train(workdir, processes, *options) as training:
                    assert training.wait() == [0] * processes, training.read_output()
            self.undisturbed_runs[processes] = workdir, time.monotonic() - began
        return self.undisturbed_runs[processes]

    def workdir(self) -> Path:
        """A folder for another run."""
        self.runs += 1
        return self.folder / f"run_{self.runs}"

    def train(self, workdir: Path, processes: int = 1, *bindings: str) -> Training:
        self.trainings += 1
        log = self.folder / f"log_{self.trainings}"
        return Training(self.gin, workdir, processes, log, *bindings)

    def ends_well(self, workdir: Path, processes: int = 1) -> bool:
        """Continues the run to its end. True if the result equals an undisturbed run's exactly."""
        with self.train(workdir, processes) as training:
            statuses = training.wait()
        if statuses != [0] * processes:
            print(f"{workdir} ended with {statuses}:\n{training.read_output()}")
            return False
        try:
            assert_same_end(workdir, self.undisturbed(processes)[0], self.config)
        except AssertionError as error:
            print(f"{workdir} ended differently:\n{error}")
            return False
        return True
