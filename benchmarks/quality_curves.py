"""What the kept runs of time_to_quality.py say: curves, the time to a quality, and intervals.

A run is a dict: its program, seed and learning rate, `curve` with pairs of seconds of training and
held-out bits per byte, and, if it was scored at the end, `final` with bytes and bits of documents.
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.stats

OURS, THEIRS = "ours", "lucidrains"
# By number of steps and seed: seconds to a level, and these as a share of the time of theirs.
TimesToLevel = dict[int, list[tuple[float | None, float]]]


def last(run: dict) -> float:
    """Bits per byte where the curve ends."""
    return run["curve"][-1][1]


def groups(runs: Iterable[dict], program: str) -> list[list[dict]]:
    """The runs of a program that differ in nothing but the seed; the best group first.

    Best are the most seeds, and with as many the lowest mean.
    """
    found = {}
    for run in runs:
        if run["program"] == program:
            found.setdefault((run["learning_rate"], run["num_steps"]), []).append(run)
    return sorted(
        found.values(), key=lambda group: (-len(group), statistics.mean(map(last, group)))
    )


def of(runs: Iterable[dict], program: str) -> list[dict]:
    """The runs of a program at its best learning rate and number of steps, by seed."""
    return groups(runs, program)[0]


def crossing(curve: Sequence[tuple[float, float]], level: float) -> float | None:
    """The first time at which a curve, linear between its points, is at `level`; None: never.

    A curve that begins below `level` was there no later than at its first point.
    """
    if curve[0][1] <= level:
        return curve[0][0]
    for (begin, above), (end, below) in itertools.pairwise(curve):
        if below <= level:
            return begin + (end - begin) * (above - level) / (above - below)
    return None


def level(runs: Sequence[dict]) -> float:
    """Bits per byte where the curves of theirs end: the mean over the seeds."""
    return statistics.mean(map(last, of(runs, THEIRS)))


def times_to_level(runs: Sequence[dict]) -> TimesToLevel:
    """When ours, at its best learning rate, is at `level`: None and infinity if it never is."""
    theirs = statistics.mean(run["curve"][-1][0] for run in of(runs, THEIRS))
    rate = of(runs, OURS)[0]["learning_rate"]
    found = {}
    for group in groups(runs, OURS):
        if group[0]["learning_rate"] == rate:
            times = [crossing(run["curve"], level(runs)) for run in group]
            shares = [math.inf if time is None else time / theirs for time in times]
            found[group[0]["num_steps"]] = list(zip(times, shares, strict=True))
    return found


def bits_per_byte(run: dict) -> float:
    """Of all documents that were scored at the end."""
    return sum(run["final"]["bits"]) / sum(run["final"]["bytes"])


def difference(runs: Sequence[dict]) -> tuple[float, float, float]:
    """Bits per byte of theirs minus ours at the end, and a 95% interval.

    The interval is from a bootstrap over documents; of each document, the mean over the seeds.
    """

    def mean_bits(program: str):
        return np.mean([run["final"]["bits"] for run in of(runs, program)], axis=0)

    more = mean_bits(THEIRS) - mean_bits(OURS)
    sizes = np.array(of(runs, OURS)[0]["final"]["bytes"])

    def ratio(more, sizes, axis):
        return more.sum(axis) / sizes.sum(axis)

    result = scipy.stats.bootstrap(
        (more, sizes), ratio, paired=True, vectorized=True, method="percentile", rng=0
    )
    return float(ratio(more, sizes, 0)), *map(float, result.confidence_interval)


def rows(runs: Iterable[dict]) -> list[dict]:
    """A table of the runs, for `report.table`."""
    return [
        {
            "program": run["program"],
            "learning rate": run["learning_rate"],
            "seed": run["seed"],
            "parameters": f"{run['parameters']:,}",
            "setup s": f"{run['setup_seconds']:.0f}",
            "training s": f"{run['trained_seconds']:.0f}",
            "updates": f"{run['steps']:,}",
            "bits per byte": f"{last(run):.3f}",
            "of more text": f"{bits_per_byte(run):.3f}" if "final" in run else None,
        }
        for run in runs
    ]
