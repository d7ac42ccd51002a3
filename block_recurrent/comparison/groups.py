"""Runs that differ in nothing but the seed, and how such groups differ from each other."""

import math
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy.special import stdtrit

from block_recurrent.comparison.runs import ComparedRun
from block_recurrent.config.data_options import PLACES
from block_recurrent.config.run_config import all_values

SEED = "train.seed"
# Options that do not change what a run computes or how fast.
INCIDENTAL = (
    "train.checkpoint_every_steps",
    "train.keep_",
    "train.profile_steps",
    "train.sample_tokens",
    "train.sample_prompt",
    "train.wandb_project",
    "data.allow_binary",
    "distributed.",
    "watch.",
)
CONFIDENCE = 0.95


class Group(NamedTuple):
    """Runs that differ in nothing but the seed, in the order in which they were given.

    Attributes:
      label: what the names of the runs have in common, such as "lstm" for lstm-0 and lstm-1.
      runs: at least one.
    """

    label: str
    runs: list[ComparedRun]


class Difference(NamedTuple):
    """How much higher the bits per byte of a group are than those of another, seed by seed.

    Attributes:
      label: of the group.
      against: label of the other group.
      step: the last step after which all runs with these seeds were evaluated.
      seeds: the seeds that both groups have.
      mean: bits per byte.
      half_width: of the 95 % confidence interval of the mean, by Student's t; None with one seed.
    """

    label: str
    against: str
    step: int
    seeds: list[int]
    mean: float
    half_width: float | None


def differing_options(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    """The options that are not the same in all runs, except incidental ones: name → values.

    Names are as in gin files, without their section where that is clear.
    """
    values = [all_values(run.config) for run in runs]
    same_corpus = all(run.corpus == runs[0].corpus for run in runs)
    incidental = INCIDENTAL + PLACES if same_corpus else INCIDENTAL
    found = {}
    for name in values[0]:
        each = [one[name] for one in values]
        if any(value != each[0] for value in each) and not name.startswith(incidental):
            found[name] = each
    short = [name.rpartition(".")[2] for name in found]
    return {
        name if short.count(last) > 1 or name == SEED else last: each
        for (name, each), last in zip(found.items(), short, strict=True)
    }


def group_by_seed(runs: Sequence[ComparedRun]) -> list[Group]:
    """The groups, in the order of their first runs."""
    options = differing_options(runs)
    options.pop(SEED, None)
    found: dict[tuple, list[ComparedRun]] = {}
    for index, run in enumerate(runs):
        key = run.corpus, *(values[index] for values in options.values())
        found.setdefault(key, []).append(run)
    labels = [_common_name(group) for group in found.values()]
    return [
        Group(label if label and labels.count(label) == 1 else _names(group), group)
        for label, group in zip(labels, found.values(), strict=True)
    ]


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and the standard deviation of a sample; None: of a single value."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), spread


def difference(group: Group, base: Group) -> Difference | str:
    """Compares two groups; a text that says why they cannot be compared."""
    runs = [*group.runs, *base.runs]
    if not all(run.text.has_same_bytes(runs[0].text) for run in runs):
        return "not comparable: other held-out text"
    if any(run.lossy for run in runs):
        return "not comparable: a vocabulary loses text"
    one, other = _by_seed(group), _by_seed(base)
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return "no seeds in common"
    paired = [(one[seed], other[seed]) for seed in seeds]
    step = _last_common_step([run for pair in paired for run in pair])
    if step is None:
        return "no evaluation after the same step"
    differences = [_bits_at(mine, step) - _bits_at(its, step) for mine, its in paired]
    mean, spread = mean_and_spread(differences)
    half = None
    if spread is not None:
        count = len(seeds)
        half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * spread / math.sqrt(count)
    return Difference(group.label, base.label, step, seeds, mean, half)


def _common_name(runs: Sequence[ComparedRun]) -> str:
    """What the names begin with, without a part of the seed and what stands before it."""
    prefix = os.path.commonprefix([run.name for run in runs])
    return prefix if len(runs) == 1 else re.sub(r"[-_./= ]*\d*$", "", prefix)


def _names(runs: Sequence[ComparedRun]) -> str:
    return ", ".join(run.name for run in runs)


def _by_seed(group: Group) -> Mapping[int, ComparedRun]:
    """Of several runs with the same seed, which are repetitions, the first one counts."""
    return {run.config.train.seed: run for run in reversed(group.runs)}


def _last_common_step(runs: Sequence[ComparedRun]) -> int | None:
    steps = [
        {point.step for point in run.points if math.isfinite(point.bits_per_byte)} for run in runs
    ]
    return max(set.intersection(*steps), default=None)


def _bits_at(run: ComparedRun, step: int) -> float:
    return next(point.bits_per_byte for point in run.points if point.step == step)
