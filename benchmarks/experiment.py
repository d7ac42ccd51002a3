"""A training run of docs/results.md: its command, its measurements, and the files that are kept."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from block_recurrent.config.run_config import RunConfig, load

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "docs" / "results"
PATCH = KEPT / "changes.patch"


class Model(NamedTuple):
    """A model in a comparison.

    Attributes:
      name: of its folder.
      label: in tables.
      variant: the gin file.
      bindings: in addition to the gin file.
      change: a change of the package itself, one of those in docs/results/changes.patch.
    """

    name: str
    label: str
    variant: str
    bindings: tuple[str, ...] = ()
    change: str = ""


class Experiment(NamedTuple):
    """A training run, and the programs that measure its model.

    Attributes:
      group: the comparison that it belongs to.
      model: to train.
      run: which of the model's runs: its seed, or the option that is varied.
      gin_files: of data and scale.
      bindings: in addition to the model's.
      then: what Python runs after the training, each with --workdir; {kept} is the folder of the
        files that are kept.
    """

    group: str
    model: Model
    run: str
    gin_files: Sequence[str]
    bindings: Sequence[str]
    then: Sequence[Sequence[str]] = ()

    @property
    def name(self) -> str:
        return f"{self.group}/{self.model.name}/{self.run}/"

    @property
    def all_gin_files(self) -> list[str]:
        return [f"gin/{name}.gin" for name in (self.model.variant, *self.gin_files)]

    @property
    def all_bindings(self) -> list[str]:
        return [*self.model.bindings, *self.bindings]

    @property
    def command(self) -> list[str]:
        """The training command, from the root of the repository."""
        return [
            *("python", "-m", "block_recurrent.train"),
            *(f"--gin_file={name}" for name in self.all_gin_files),
            *(f"--gin_bindings={binding}" for binding in self.all_bindings),
            f"--workdir=runs/{self.name.rstrip('/')}",
        ]

    @property
    def line(self) -> str:
        """The command as typed in a shell; bindings contain no double quotes."""
        change = [f"BRT_CHANGE={self.model.change}"] if self.model.change else []
        words = [*change, *self.command]
        return " ".join(f'"{word}"' if " " in word else word for word in words)

    @property
    def config(self) -> RunConfig:
        return load(self.all_gin_files, self.all_bindings)

    @property
    def kept(self) -> Path:
        """The folder of the files that are kept."""
        return KEPT / self.name

    @property
    def is_there(self) -> bool:
        return (self.kept / "metrics.jsonl").exists()

    def run_and_keep(self):
        """Trains or continues the run, evaluates it, and copies its files."""
        workdir = ROOT / "runs" / self.name
        environment = os.environ | {"BRT_CHANGE": self.model.change}
        if self.model.change and not is_patched():
            sys.exit(f"error: {self.name} needs a patched package: git apply {PATCH}")
        command = [sys.executable, *self.command[1:]]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        self.kept.mkdir(parents=True, exist_ok=True)
        for program in self.then:
            words = [word.format(kept=self.kept) for word in program]
            line = [sys.executable, *words, f"--workdir={workdir}"]
            subprocess.run(line, cwd=ROOT, env=environment, check=True)
        shutil.copy(workdir / "metrics.jsonl", self.kept)


def evaluate(split: str) -> Sequence[str]:
    """Scores a split."""
    return "-m", "block_recurrent.evaluate", f"--split={split}", f"--json={{kept}}/{split}.json"


INTERVENE = "benchmarks/recall_interventions.py", "--json={kept}/interventions.json"
SCORE = "benchmarks/score_documents.py", "--json={kept}/documents.json"
SCORE_TUNING = (*SCORE, "--part=tuning")


def is_patched() -> bool:
    """Whether PATCH has been applied to the package."""
    check = ["git", "apply", "--reverse", "--check", PATCH]
    return subprocess.run(check, cwd=ROOT, capture_output=True).returncode == 0
