"""How the loss compares with that of the lines of metrics before."""

import collections
import json
import statistics
from pathlib import Path

LINES = 20  # whose median a loss is compared with
FEWEST = 5  # of which a median says something
SPIKE = 1.5  # times the median


class LossSpikes:
    """The running median of the training loss; a resumed run finds it in metrics.jsonl.

    Only lines at multiples of `log_every_steps` count, so that it does not matter where a run was
    stopped.

    Args:
      path: metrics.jsonl, whole up to where the run goes on.
      log_every_steps: steps between two lines.
    """

    def __init__(self, path: Path, log_every_steps: int):
        self.log_every_steps = log_every_steps
        self.losses = collections.deque(maxlen=LINES)
        for line in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(line)
            if line["split"] == "train":
                self._add(line["step"], line["loss"])

    def compare(self, step: int, loss: float) -> tuple[float, bool]:
        """The loss over the median of the lines before (1 for the first), and whether it jumps."""
        earlier = list(self.losses)
        self._add(step, loss)
        ratio = loss / statistics.median(earlier) if earlier else 1.0
        return ratio, len(earlier) >= FEWEST and ratio > SPIKE

    def _add(self, step: int, loss: float | None):
        if step % self.log_every_steps == 0 and loss is not None and loss == loss:
            self.losses.append(loss)
