"""Reports of a training run: metrics, progress, notes, loss spikes."""

import collections
import contextlib
import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax

from block_recurrent.config.run_config import RunConfig
from block_recurrent.console.progress import Progress
from block_recurrent.files.paths import AnyPath
from block_recurrent.parallel.processes import is_main_process
from block_recurrent.reporting.metrics_log import MetricsLog, read_metrics
from block_recurrent.reporting.metrics_server import MetricsServer
from block_recurrent.reporting.wandb_log import WandbLog
from block_recurrent.training.alerts import Alerts
from block_recurrent.training.setup import Setup
from block_recurrent.training.timing import RunTimer
from block_recurrent.training.train_step import StepMetrics

MEDIAN_LINES = 20  # a loss is compared with the median of this many lines
MIN_LINES = 5  # with fewer lines, no spike is reported
RECENT_LINES = 5  # the training loss is the mean of this many lines
SPIKE = 1.5  # a loss above this many times the median is a spike


@runtime_checkable
class Tracker(Protocol):
    """A destination for metrics and texts: the log on disk, W&B, or the metrics server."""

    def write(self, step: int, split: str, metrics: Mapping[str, Any]): ...

    def write_text(self, step: int, prompt: str, text: str): ...


@contextlib.contextmanager
def open_trackers(config: RunConfig, workdir: AnyPath) -> Iterator[list[Tracker]]:
    """Opens the trackers that the configuration requests, in addition to the log on disk.

    The list is empty in all processes but the first.

    Raises:
      UserError: `watch.port` is taken, or Weights & Biases rejects the run.
    """
    with contextlib.ExitStack() as stack:
        trackers = []
        if is_main_process() and config.watch.port:
            trackers.append(stack.enter_context(MetricsServer(config.watch.port)))
        if is_main_process() and (project := config.train.wandb_project):
            wandb = WandbLog(project, workdir, dataclasses.asdict(config))
            trackers.append(stack.enter_context(wandb))
        yield trackers


class Reporter:
    """Reports the steps of a run after `first_step`. Does nothing in all processes but the first.

    Use it as a context manager::

        with Reporter(setup, workdir, first_step, trackers) as reporter:
            with reporter.timer.waiting_for_data():
                ...
            reporter.report_training(step, results)

    Args:
      setup: setup of the run.
      workdir: folder of the run. What was logged there after `first_step` is dropped.
      first_step: number of steps done before.
      trackers: where to report in addition to the log.

    Attributes:
      timer: measures the time of the steps that are reported.
    """

    def __init__(
        self, setup: Setup, workdir: AnyPath, first_step: int, trackers: Sequence[Tracker] = ()
    ):
        self.active = is_main_process()
        self.train, self.learning_rate = setup.config.train, setup.learning_rate
        self.bytes_per_token = setup.lanes.documents.bytes_per_token
        self.timer = RunTimer(self.train, first_step)
        self.text_lost = setup.lanes.documents.text_lost
        self._alerts = Alerts(setup.config)
        self._open = contextlib.ExitStack()
        self._log = self._progress = self._spikes = None
        if self.active:
            self._log = self._open.enter_context(MetricsLog(workdir, first_step or None))
            self._spikes = LossSpikes(self._log.path, self.train.log_every_steps)
            self._progress = self._open.enter_context(Progress(self.train.num_steps, first_step))
        self._trackers: list[Tracker] = [self._log, *trackers] if self.active else []

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_):
        self._open.close()

    def report_training(self, step: int, results: StepMetrics):
        """Writes and shows the metrics of the steps since the last call."""
        if not self.active:
            return
        nats, tokens, grad_norm, steps, nonfinite = map(float, jax.device_get(results.sums))
        updates = int(results.updates)
        seconds, waited = self.timer.lap(step)
        loss = nats / tokens if tokens else math.nan
        bits_per_token = loss / math.log(2)
        over_median, spike = self._spikes.compare(step, loss)
        positions = max(steps, 1) * self.train.batch_size * self.train.segment_length
        metrics = {
            "loss": loss,
            "bits_per_token": bits_per_token,
            "bits_per_byte": bits_per_token / self.bytes_per_token,
            "loss_over_median": over_median,
            "tokens_per_second": tokens / seconds,
            "learning_rate": float(self.learning_rate(updates - 1)) if updates else math.nan,
            "gradient_norm": grad_norm / steps if steps else math.nan,
            "nonfinite_steps": nonfinite,
            "waiting_for_data": waited / seconds,
            "padding": 1 - tokens / positions,
        }
        if self.text_lost:
            metrics["text_lost"] = self.text_lost
        self.write(step, "train", metrics)
        self._progress.update(step, metrics, self.timer.seconds_left())
        if spike:
            self.note(f"step {step:,}: the loss is {over_median:.2f} × its running median")
        for note in self._alerts(metrics) if steps else ():
            self.note(f"step {step:,}: {note}")

    @contextlib.contextmanager
    def evaluation(self, step: int) -> Iterator[Callable[[str, int, int], None]]:
        """Yields a function that shows the progress of an evaluation; see `EvaluationPace`."""
        if self.active:
            with self._progress.evaluation(step) as show:
                yield show
        else:
            yield lambda *_: None

    def training_loss(self) -> float:
        """Mean loss of the last lines of training metrics, in nats per token; NaN without any."""
        recent = list(self._spikes.losses)[-RECENT_LINES:]
        return statistics.mean(recent) if recent else math.nan

    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; none in all processes but the first."""
        return read_metrics(self._log.path.parent) if self.active else []

    def write(self, step: int, split: str, metrics: Mapping[str, Any]):
        """Writes metrics to all trackers."""
        for tracker in self._trackers:
            tracker.write(step, split, metrics)

    def write_text(self, step: int, prompt: str, text: str):
        """Writes a text sample to all trackers."""
        for tracker in self._trackers:
            tracker.write_text(step, prompt, text)

    def note(self, line: str):
        """Prints a line to the terminal."""
        if self.active:
            self._progress.note(line)

    def flush(self):
        """Copies the metrics to the bucket, if the run is in one."""
        if self.active:
            self._log.flush()


class LossSpikes:
    """Compares the training loss with its running median.

    A resumed run reads earlier losses from metrics.jsonl. Only lines at multiples of
    `log_every_steps` count, so the result does not depend on where a run was stopped.

    Args:
      path: path of metrics.jsonl, without lines after the step at which the run resumes.
      log_every_steps: steps between two lines.
    """

    def __init__(self, path: Path, log_every_steps: int):
        self.log_every_steps = log_every_steps
        self.losses = collections.deque(maxlen=MEDIAN_LINES)
        for line in read_metrics(path.parent):
            if line.get("split") == "train":
                self._add(line["step"], line["loss"])

    def compare(self, step: int, loss: float) -> tuple[float, bool]:
        """Returns the loss over the median of earlier losses (at first 1), and if it is a spike."""
        earlier = list(self.losses)
        median = statistics.median(earlier) if earlier else loss
        self._add(step, loss)
        ratio = loss / median if median else 1.0
        return ratio, len(earlier) >= MIN_LINES and ratio > SPIKE

    def _add(self, step: int, loss: float | None):
        if step % self.log_every_steps == 0 and loss is not None and loss == loss:
            self.losses.append(loss)
