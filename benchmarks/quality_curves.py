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


def last(run: dict) -> float:
    """Bits per byte where the curve ends."""
    return run["curve"][-1][1]


def of(runs: Iterable[dict], program: str) -> list[dict]:
    """The runs of a program at its best learning rate, by the mean over the seeds."""
    by_rate = {}
    for run in runs:
        if run["program"] == program:
            by_rate.setdefault(run["learning_rate"], []).append(run)
    return min(by_rate.values(), key=lambda seeds: statistics.mean(map(last, seeds)))


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


def times_to_level(runs: Sequence[dict]) -> list[tuple[float | None, float]]:
    """Ours, for each seed: the seconds to `level`, and these as a share of the time of theirs.

    A run that does not get there has None and infinity.
    """
    theirs = statistics.mean(run["curve"][-1][0] for run in of(runs, THEIRS))
    times = [crossing(run["curve"], level(runs)) for run in of(runs, OURS)]
    return [(time, math.inf if time is None else time / theirs) for time in times]


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
