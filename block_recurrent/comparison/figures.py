"""The figure of a comparison."""

import itertools
import math
import textwrap
from collections.abc import Sequence

from block_recurrent.comparison.groups import Group
from block_recurrent.reporting.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Figure,
    legend_above,
    new_figure,
)

# Together with those above, the palette of Okabe and Ito.
COLORS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000", GREY)
LABEL_LENGTH = 70
UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}


def losses(groups: Sequence[Group], comparable: bool) -> Figure:
    """Plot held-out bits per byte over steps and over training time.

    Runs of a group, which differ in the seed, have the same colour.

    Args:
      groups: at least one of their runs has been evaluated.
      comparable: whether all bits per byte can be compared.
    """
    figure, [[by_step, by_time]] = new_figure(1, 2, panel=(4.6, 3.6))
    points = [point for group in groups for run in group.runs for point in run.points]
    times = [point.seconds for point in points if math.isfinite(point.seconds)]
    long = max(times, default=0.0) / 2
    unit = max((name for name in UNITS if UNITS[name] <= long), key=UNITS.get, default="seconds")
    styles = itertools.product(("-", "--", ":"), COLORS)
    for group, (line, color) in zip(groups, itertools.cycle(styles), strict=False):
        label = textwrap.shorten(group.label, LABEL_LENGTH, placeholder=" …")
        for index, run in enumerate(group.runs):
            style = {"color": color, "linestyle": line, "marker": "o", "markersize": 3}
            style |= {"linewidth": 1.2, "label": None if index else label}
            bits = [point.bits_per_byte for point in run.points]
            by_step.plot([point.step for point in run.points], bits, **style)
            by_time.plot([point.seconds / UNITS[unit] for point in run.points], bits, **style)
    by_step.set_ylabel("held-out bits per byte" + ("" if comparable else ",\nnot comparable"))
    by_step.set_xlabel("step")
    by_time.set_xlabel(f"training time, {unit}")
    by_time.sharey(by_step)
    legend_above(figure, columns=1)
    return figure
