"""The charts of a comparison."""

import math
from collections.abc import Sequence

from block_recurrent.comparison.groups import Group
from block_recurrent.reporting.charts import Chart, Line

CAPTION = (
    "Bits per byte of the held-out documents, by {}. Runs that differ in nothing but the seed have "
    "the same colour and dashes, and other markers."
)
STEP, TIME = "step", "training time, without evaluations, checkpoints and compilation"
UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}


def losses(groups: Sequence[Group], comparable: bool) -> list[Chart]:
    """Held-out bits per byte over steps and, where it is known, over training time.

    Args:
      groups: the runs; without an evaluation that gave a number, there are no charts.
      comparable: whether all bits per byte can be compared.
    """
    all_points = [point for group in groups for run in group.runs for point in run.points]
    points = [point for point in all_points if math.isfinite(point.bits_per_byte)]
    times = [point.seconds for point in points if math.isfinite(point.seconds)]
    long = max(times, default=0.0) / 2
    unit = max((name for name in UNITS if UNITS[name] <= long), key=UNITS.get, default="seconds")
    by_step, by_time = [], []
    for style, group in enumerate(groups):
        for marker, run in enumerate(group.runs):
            for lines, timed in ((by_step, False), (by_time, True)):
                shown = [point for point in run.points if not timed or math.isfinite(point.seconds)]
                x = [point.seconds / UNITS[unit] if timed else point.step for point in shown]
                bits = [point.bits_per_byte for point in shown]
                lines.append(Line(run.name, x, bits, style, marker))
    label = "held-out bits per byte" + ("" if comparable else ", not comparable")
    charts = [
        Chart(CAPTION.format(STEP), STEP, label, by_step),
        Chart(CAPTION.format(TIME), f"training time, {unit}", label, by_time),
    ]
    return charts[: bool(points) + bool(times)]
