"""The metrics of a run on disk: JSON lines and TensorBoard."""

import contextlib
import json
import math
import sys
import textwrap
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from block_recurrent.files.paths import AnyPath, workdir_path
from block_recurrent.files.writing import Mirror, atomic_write

# Which weights are evaluated → the split of their metrics. The second one is only there if the run
# averages its parameters.
HELD_OUT = {"raw": "held_out", "averaged": "held_out_averaged"}


@contextlib.contextmanager
def hide_modules(*modules: str):
    """Makes modules look as if they were not installed, unless they are already imported."""
    hide = [module for module in modules if module not in sys.modules]
    sys.modules.update(dict.fromkeys(hide))
    try:
        yield
    finally:
        for module in hide:
            del sys.modules[module]


# tensorboardX imports these modules if they are installed, which takes seconds. It does not need
# them here.
with hide_modules("torch", "google.cloud.storage"):
    from tensorboardX import SummaryWriter


class MetricsLog:
    """Appends to metrics.jsonl, samples.jsonl and tensorboard/ in the folder of a run::

        with MetricsLog(workdir, resume_step=None) as log:
            log.write(10, "train", {"loss": 2.3, "bits_per_byte": 3.3})

    `write` hands each line of JSON to the operating system before it returns, so a killed run loses
    no line. An evaluation writes its text and the metrics of averaged weights first. Its other
    metrics are thus the mark of a complete evaluation. TensorBoard's events follow within seconds.
    Both are copied to a bucket by `flush` and `close`, and about once per minute in between. A
    killed run loses at most the last minute, and no line from before its newest checkpoint.

    Args:
      workdir: the folder of the run; created if needed.
      resume_step: the step of the checkpoint from which the run continues. Later lines are dropped,
        because the run will log them again, and so is what an evaluation wrote that was cut off at
        this step. None: a new run, which drops all lines.

    Attributes:
      path: path of metrics.jsonl on this machine.
      purge_step: TensorBoard discards earlier events at this step and later ones.
    """

    def __init__(self, workdir: str | AnyPath, resume_step: int | None):
        workdir = workdir_path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        names = "metrics.jsonl", "samples.jsonl"
        self._mirror = Mirror(workdir, initial_files=names)
        self.path, self._samples = (self._mirror.folder / name for name in names)
        last = -1 if resume_step is None else resume_step
        evaluated = is_logged(self.path.parent, last, HELD_OUT["raw"])
        cut_off = [] if evaluated else [HELD_OUT["averaged"]]
        drop_lines_after(self.path, last, cut_off)
        drop_lines_after(self._samples, last if evaluated else last - 1)
        self.purge_step = 0 if resume_step is None else resume_step + 1
        self._file = open(self.path, "a", buffering=1, encoding="utf-8")
        self._tensorboard = SummaryWriter(
            str(self._mirror.folder / "tensorboard"),
            purge_step=self.purge_step,
            flush_secs=1,
            # Files are named by the time in seconds. Two files of one second need different names.
            filename_suffix=f".{self.purge_step}",
        )

    def write(self, step: int, split: str, metrics: Mapping[str, Any]):
        """Logs the metrics after `step` steps. NaN and infinity become null in metrics.jsonl.

        Args:
          step: number of optimizer steps done.
          split: "train", or one of `HELD_OUT`.
          metrics: name → number; NumPy and JAX scalars are accepted.
        """
        numbers = {name: to_number(value) for name, value in metrics.items()}
        line = json.dumps({"step": int(step), "split": split, **for_json(numbers)})
        self._file.write(line + "\n")
        for name, number in numbers.items():
            self._tensorboard.add_scalar(f"{split}/{name}", number, int(step))
        self._mirror.update()

    def write_text(self, step: int, prompt: str, text: str):
        """Logs a prompt and the text that the model wrote after it."""
        line = json.dumps({"step": int(step), "prompt": prompt, "text": text}, ensure_ascii=False)
        with open(self._samples, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        blocks = (textwrap.indent(part, "    ", lambda _: True) for part in (prompt, text))
        self._tensorboard.add_text(
            "held_out/text", "\n\n*the model writes:*\n\n".join(blocks), int(step)
        )
        self._mirror.update()

    def flush(self):
        """Copies everything to the bucket, if the run is in one. Call it before saving."""
        self._mirror.update(min_age=0)

    def close(self):
        """Flushes and closes everything."""
        self._file.close()
        self._tensorboard.close()
        self._mirror.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def to_number(value: Any) -> int | float:
    """Converts a scalar of any library to a Python number."""
    return value if isinstance(value, int | float) else value.item()


def for_json(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON lacks, at any depth."""
    if isinstance(value, dict):
        return {name: for_json(each) for name, each in value.items()}
    if isinstance(value, list):
        return [for_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_numbers(path: Path, numbers: Mapping[str, Any]):
    """Writes numbers to a JSON file for the user; see `for_json`."""
    path.write_text(json.dumps(for_json(numbers), indent=2) + "\n", encoding="utf-8")


def drop_lines_after(path: Path, step: int, cut_off: Collection[str] = ()):
    """Drops lines of later steps, and a line that a killed run left incomplete.

    The file is replaced atomically.

    Args:
      path: the file.
      step: the last step whose lines stay.
      cut_off: splits whose lines at this step are dropped too.
    """
    if not path.exists():
        return

    def stays(line: str) -> bool:
        logged = step_of(line)
        if logged is None or logged > step:
            return False
        return logged < step or json.loads(line).get("split") not in cut_off

    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    kept = list(filter(stays, lines))
    with atomic_write(path) as file:
        file.writelines(f"{line}\n".encode() for line in kept)


def is_logged(workdir: AnyPath, step: int, split: str) -> bool:
    """Whether metrics.jsonl has the metrics of a split after this step."""
    lines = read_metrics(workdir)
    return any(line["step"] == step and line.get("split") == split for line in lines)


def read_metrics(workdir: AnyPath) -> list[dict[str, Any]]:
    """The complete lines of metrics.jsonl in the folder of a run; empty if there is no file."""
    return _read_lines(workdir / "metrics.jsonl")


def read_samples(workdir: AnyPath) -> list[dict[str, Any]]:
    """The complete lines of samples.jsonl in the folder of a run, with step, prompt and text."""
    return _read_lines(workdir / "samples.jsonl")


def _read_lines(path: AnyPath) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    return [json.loads(line) for line in lines if step_of(line) is not None]


def step_of(line: str) -> int | None:
    """The step of a line of JSON; None if the line is incomplete."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
