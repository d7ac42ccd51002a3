"""What a run reports: JSON lines and TensorBoard for later, a progress line for now."""

import contextlib
import json
import math
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from block_recurrent.files.paths import AnyPath, workdir_path
from block_recurrent.files.writing import Mirror, atomic_write
from block_recurrent.reporting.wandb_log import WandbLog


@contextlib.contextmanager
def hidden(*modules: str):
    """As if the modules were not installed, unless they are imported already."""
    hide = [module for module in modules if module not in sys.modules]
    sys.modules.update(dict.fromkeys(hide))
    try:
        yield
    finally:
        for module in hide:
            del sys.modules[module]


# Which tensorboardX imports where it can: seconds, and for nothing here.
with hidden("torch", "google.cloud.storage"):
    from tensorboardX import SummaryWriter


class MetricsLog:
    """Appends to metrics.jsonl, samples.jsonl and tensorboard/ in the folder of a run::

        with MetricsLog(workdir, resume_step=None) as log:
            log.write(10, "train", {"loss": 2.3, "bits_per_byte": 3.3})

    A line of JSON is with the operating system when `write` returns, so that a killed run loses
    none; TensorBoard's numbers follow within seconds. In a bucket, both are there after `flush` and
    after `close`, and a minute old at most between: a killed run loses that minute, but no line
    from before its newest checkpoint.

    Args:
      workdir: the folder of the run; made if it is not there.
      resume_step: the step of the checkpoint from which the run continues: whatever was logged
        after it is dropped, and will be logged again. None: a new run, everything is dropped.
      wandb: gets the same.

    Attributes:
      path: of metrics.jsonl on this machine.
      purge_step: the first step that TensorBoard forgets of what it has read before.
    """

    def __init__(
        self, workdir: str | AnyPath, resume_step: int | None, wandb: WandbLog | None = None
    ):
        self._wandb, workdir = wandb, workdir_path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        names = "metrics.jsonl", "samples.jsonl"
        self._mirror = Mirror(workdir, begin_with=names)
        self.path, self._samples = (self._mirror.folder / name for name in names)
        for log in (self.path, self._samples):
            keep_until(log, -1 if resume_step is None else resume_step)
        self.purge_step = 0 if resume_step is None else resume_step + 1
        self._file = open(self.path, "a", buffering=1, encoding="utf-8")
        self._tensorboard = SummaryWriter(
            str(self._mirror.folder / "tensorboard"),
            purge_step=self.purge_step,
            flush_secs=1,
            # Files are named by the second: one begun in the same second must not replace another.
            filename_suffix=f".{self.purge_step}",
        )

    def write(self, step: int, split: str, metrics: Mapping[str, Any]):
        """Logs the metrics after `step` steps. NaN and infinity become null in metrics.jsonl.

        Args:
          step: optimizer steps done.
          split: "train", "held_out".
          metrics: name → number; scalars of NumPy and JAX will do.
        """
        numbers = {name: to_number(value) for name, value in metrics.items()}
        finite = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        line = json.dumps({"step": int(step), "split": split, **finite}, allow_nan=False)
        self._file.write(line + "\n")
        for name, number in numbers.items():
            self._tensorboard.add_scalar(f"{split}/{name}", number, int(step))
        if self._wandb:
            self._wandb.write(int(step), split, numbers)
        self._mirror.update()

    def write_text(self, step: int, prompt: str, text: str):
        """Logs what the model has written after the prompt."""
        line = json.dumps({"step": int(step), "prompt": prompt, "text": text}, ensure_ascii=False)
        with open(self._samples, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        blocks = (textwrap.indent(part, "    ", lambda _: True) for part in (prompt, text))
        self._tensorboard.add_text("held_out/text", "\n\n*goes on:*\n\n".join(blocks), int(step))
        if self._wandb:
            self._wandb.write_text(int(step), prompt, text)
        self._mirror.update()

    def flush(self):
        """Brings both to the bucket, if they belong there. Comes before a checkpoint."""
        self._mirror.update(least=0)

    def close(self):
        """Flushes all."""
        self._file.close()
        self._tensorboard.close()
        self._mirror.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def to_number(value: Any) -> int | float:
    """The Python number in a scalar of any library."""
    return value if isinstance(value, int | float) else value.item()


def keep_until(path: Path, step: int):
    """Drops the lines after `step`, and one half-written when the run was killed.

    The file is replaced as a whole, so that it is complete at every moment.
    """
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    kept = [line for line in lines if (logged := step_of(line)) is not None and logged <= step]
    with atomic_write(path) as file:
        file.writelines(f"{line}\n".encode() for line in kept)


def step_of(line: str) -> int | None:
    """The step of a line of JSON; None if the line is not whole."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
