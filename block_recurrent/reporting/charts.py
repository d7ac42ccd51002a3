"""Line charts in a page, drawn by its script, which also shows the values under the pointer."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from block_recurrent.reporting.metrics_log import for_json


class Line(NamedTuple):
    """A line of a chart.

    Attributes:
      label: what it shows.
      x: increasing numbers.
      y: as many numbers; None and NaN leave a gap.
      style: its colour and dashes: 0, 1, 2, …
      marker: the shape at each point: 0 (circle), 1 (square), 2 (triangle), 3 (diamond), and again;
        None: none.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: int
    marker: int | None = None


class Chart(NamedTuple):
    """Lines over a common axis.

    Attributes:
      caption: the text below, which also describes the chart to those who cannot see it.
      x_label: what the x axis shows, and its unit.
      y_label: likewise.
      lines: at least one.
      is_log: whether the x axis is logarithmic, for numbers of tokens.
      is_stepped: whether each value holds until the next x; the last one is then repeated at the
        end of its bin.
      marks: positions on the x axis: name → x.
    """

    caption: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    is_log: bool = False
    is_stepped: bool = False
    marks: Mapping[str, float] = {}

    def html(self) -> str:
        """The chart in HTML."""
        content = self._asdict() | {"lines": [_lists(line) for line in self.lines]}
        data = html.escape(json.dumps(for_json(content), allow_nan=False))
        caption = html.escape(self.caption)
        return f'<figure data-chart="{data}"><figcaption>{caption}</figcaption></figure>\n'


def _lists(line: Line) -> dict[str, Any]:
    return line._asdict() | {"x": list(line.x), "y": list(line.y)}
