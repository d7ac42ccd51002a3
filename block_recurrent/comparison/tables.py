"""The tables of a comparison: heading → cells."""

import math
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from block_recurrent.comparison.groups import (
    SEED,
    Difference,
    Group,
    differing_options,
    mean_and_spread,
)
from block_recurrent.comparison.runs import ComparedRun, Point
from block_recurrent.reporting.page import cell_text

Table = Mapping[str, Sequence[Any]]


def run_table(runs: Sequence[ComparedRun]) -> Table:
    """A row for each run: the options in which it differs, and its metrics."""
    options = {
        name: [repr(value) for value in values] for name, values in differing_options(runs).items()
    }
    letters = text_letters(runs)
    text = {"held-out text": letters} if len(set(letters)) > 1 else {}

    def column(value: Callable[[Point], Any], which: Callable[[ComparedRun], Point | None]):
        points = map(which, runs)
        return [None if point is None else value(point) for point in points]

    def last(run: ComparedRun):
        return run.last

    def best(run: ComparedRun):
        return run.best

    return {
        "run": [run.name for run in runs],
        **options,
        **text,
        "step": [f"{run.step:,} of {run.config.train.num_steps:,}" for run in runs],
        "loss": column(lambda point: point.loss, last),
        "best loss": column(lambda point: point.loss, best),
        "at step": column(lambda point: point.step, best),
        "bits per byte": column(lambda point: point.bits_per_byte, last),
        "best bits per byte": column(lambda point: point.bits_per_byte, best),
        "seconds per step": [f"{run.seconds_per_step:.3g}" for run in runs],
        "parameters": [run.num_params for run in runs],
    }


def group_table(groups: Sequence[Group]) -> Table:
    """A row for each group: its options, and mean and standard deviation over its seeds."""
    options = differing_options([group.runs[0] for group in groups])
    options.pop(SEED, None)

    def over_seeds(value: Callable[[ComparedRun], float | None]):
        cells = []
        for group in groups:
            values = [each for each in map(value, group.runs) if each is not None]
            values = [each for each in values if math.isfinite(each)]
            mean, spread = mean_and_spread(values) if values else (None, None)
            cells.append(cell_text(mean) + ("" if spread is None else f" ± {spread:.4f}"))
        return cells

    return {
        "runs": [group.label for group in groups],
        **{name: [repr(value) for value in values] for name, values in options.items()},
        "seeds": [", ".join(str(run.config.train.seed) for run in group.runs) for group in groups],
        "loss": over_seeds(lambda run: run.last and run.last.loss),
        "best loss": over_seeds(lambda run: run.best and run.best.loss),
        "bits per byte": over_seeds(lambda run: run.last and run.last.bits_per_byte),
        "best bits per byte": over_seeds(lambda run: run.best and run.best.bits_per_byte),
        "seconds per step": over_seeds(lambda run: run.seconds_per_step),
    }


def describe_difference(group: Group, base: Group, found: Difference | str) -> str:
    """A comparison of two groups in one line."""
    line = f"{group.label}, against {base.label}: "
    if isinstance(found, str):
        return line + found
    line += f"{found.mean:+.4f} bits per byte"
    if found.half_width is not None:
        low, high = found.mean - found.half_width, found.mean + found.half_width
        line += f" (95% interval {low:+.4f} to {high:+.4f})"
    seeds = ", ".join(map(str, found.seeds))
    return f"{line} at step {found.step:,}, {'seeds' if len(found.seeds) > 1 else 'seed'} {seeds}"


def notes(runs: Sequence[ComparedRun]) -> list[str]:
    """What must be known to read the tables."""
    found = []
    if len(set(text_letters(runs))) > 1:
        found.append(
            "Runs with another letter under 'held-out text' were scored on other text, or on "
            "another part of it: their losses and bits per byte cannot be compared."
        )
    if len({run.text.vocabulary for run in runs}) > 1:
        found.append("The runs have different vocabularies: compare bits per byte, not losses.")
    found += [f"{run.name}: bits per byte{run.lossy}." for run in runs if run.lossy]
    found += [
        f"{run.name} changed on the way: {'; '.join(run.changes)}." for run in runs if run.changes
    ]
    return found


def text_letters(runs: Sequence[ComparedRun]) -> list[str]:
    """A letter for each run, the same where bits per byte can be compared."""
    known: list[ComparedRun] = []
    letters = []
    for run in runs:
        equal = (i for i, one in enumerate(known) if run.text.has_same_bytes(one.text))
        index = next(equal, len(known))
        if index == len(known):
            known.append(run)
        letters.append(_letter(index))
    return letters


def lines_of(table: Table) -> list[str]:
    """A table as lines of text: the first column to the left, the others to the right."""
    rows = [list(table), *zip(*table.values(), strict=True)]
    texts = [[cell_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if index else text.ljust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in texts
    ]


def _letter(index: int) -> str:
    letters = string.ascii_uppercase
    return letters[index] if index < len(letters) else str(index)
