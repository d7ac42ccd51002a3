"""A comparison of runs, as text, as JSON and as an HTML page."""

import html
from collections.abc import Iterator, Sequence
from typing import Any

from block_recurrent.comparison.figures import losses
from block_recurrent.comparison.groups import (
    Difference,
    Group,
    difference,
    differing_options,
    group_by_seed,
)
from block_recurrent.comparison.runs import ComparedRun
from block_recurrent.comparison.tables import (
    describe_difference,
    group_table,
    lines_of,
    notes,
    run_table,
    text_letters,
)
from block_recurrent.reporting.page import html_page, html_table

SEEDS = "Mean and standard deviation over seeds"


class Comparison:
    """Runs next to each other.

    Args:
      runs: at least one.

    Attributes:
      groups: the runs that differ in nothing but the seed, together.
      differences: of every group from the first one, if a group has several seeds: how large they
        are, or why they are not known.
    """

    def __init__(self, runs: Sequence[ComparedRun]):
        self.runs, self.groups = runs, group_by_seed(runs)
        self.has_seeds = any(len(group.runs) > 1 for group in self.groups)
        self.differences: list[tuple[Group, Difference | str]] = []
        if self.has_seeds:
            first, *others = self.groups
            self.differences = [(group, difference(group, first)) for group in others]

    def lines(self) -> Iterator[str]:
        """The comparison as text."""
        yield from lines_of(run_table(self.runs))
        if self.has_seeds:
            yield from ("", f"{SEEDS}:", *lines_of(group_table(self.groups)))
        if found := [*self._described(), *notes(self.runs)]:
            yield from ("", *found)

    def numbers(self) -> dict[str, Any]:
        """The comparison for JSON."""
        options = differing_options(self.runs)
        runs = [
            {
                "name": run.name,
                "options": {name: values[index] for name, values in options.items()},
                "held_out_text": letter,
                "step": run.step,
                "num_steps": run.config.train.num_steps,
                "last": run.last and run.last._asdict(),
                "best": run.best and run.best._asdict(),
                "seconds_per_step": run.seconds_per_step,
                "parameters": run.num_params,
                "evaluations": [point._asdict() for point in run.points],
                "changes": run.changes,
            }
            for index, (run, letter) in enumerate(
                zip(self.runs, text_letters(self.runs), strict=True)
            )
        ]
        groups = [
            {"label": group.label, "runs": [run.name for run in group.runs]}
            for group in self.groups
        ]
        differences = [
            {"label": group.label, "reason": found} if isinstance(found, str) else found._asdict()
            for group, found in self.differences
        ]
        return {
            "runs": runs,
            "groups": groups,
            "differences": differences,
            "notes": notes(self.runs),
        }

    def page(self) -> str:
        """The comparison as a self-contained HTML page."""
        parts = [html_table(run_table(self.runs))]
        letters = set(text_letters(self.runs))
        comparable = len(letters) == 1 and not any(run.lossy for run in self.runs)
        parts += [chart.html() for chart in losses(self.groups, comparable)]
        if self.has_seeds:
            parts += [f"<h2>{SEEDS}</h2>", html_table(group_table(self.groups))]
        described = [*self._described(), *notes(self.runs)]
        parts += [f"<p>{html.escape(line)}</p>\n" for line in described]
        count = len(self.runs)
        return html_page(f"Comparison of {count} run{'s' * (count > 1)}", *parts)

    def _described(self) -> list[str]:
        base = self.groups[0]
        return [describe_difference(group, base, found) for group, found in self.differences]
