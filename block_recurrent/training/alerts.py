"""Notes about metrics that show that a run wastes most of its time."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from block_recurrent.config.run_config import RunConfig


class Alert(NamedTuple):
    """What is wrong if a metric is above a limit.

    Attributes:
      metric: name of the metric, a fraction.
      limit: the largest value that is no reason for a note.
      lines: lines of metrics in a row that must be above the limit.
      note: what it means and what to do; {:.0%} is the metric.
    """

    metric: str
    limit: float
    lines: int
    note: str


PADDING = Alert(
    "padding",
    0.5,
    1,
    "{:.0%} of the positions in a batch are padding, because documents are short for blocks of "
    "BlockRecurrentTransformer.window_length tokens: in a new run, set a smaller one, or join "
    "short documents",
)
WAITING = Alert(
    "waiting_for_data",
    0.2,
    3,  # the first batches may be slow
    "steps wait for their batches {:.0%} of the time: make a token store with "
    "block_recurrent.prepare_data, or put the corpus on a faster disk",
)


class Alerts:
    """Gives each note once::

        for note in alerts(metrics):
            print(note)

    Args:
      config: configuration of the run. In the corpus 'recall', most tokens do not count on
        purpose, as padding does not.
    """

    def __init__(self, config: RunConfig):
        self._alerts = [WAITING] if config.data.corpus == "recall" else [PADDING, WAITING]
        self._lines = Counter()  # above the limit, in a row

    def __call__(self, metrics: Mapping[str, float]) -> Iterator[str]:
        """The notes that a line of training metrics gives reason for."""
        for alert in list(self._alerts):
            above = metrics[alert.metric] > alert.limit
            self._lines[alert.metric] = above * (self._lines[alert.metric] + 1)
            if self._lines[alert.metric] == alert.lines:
                self._alerts.remove(alert)
                yield alert.note.format(metrics[alert.metric])
