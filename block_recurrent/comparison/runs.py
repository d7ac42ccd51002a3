"""One run as it is compared with others: its options, and its evaluations so far."""

import functools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from block_recurrent.config.run_config import RunConfig
from block_recurrent.console.lossy import lossy_mark
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath, explain_path_errors
from block_recurrent.model.config import ModelConfig
from block_recurrent.model.transformer import abstract_model
from block_recurrent.reporting.metrics_log import read_metrics
from block_recurrent.training.config_changes import read_changes
from block_recurrent.training.corpus_record import RECORD
from block_recurrent.training.workdir import read_config


class Point(NamedTuple):
    """An evaluation.

    Attributes:
      step: steps done before.
      seconds: training time until then, without evaluations, checkpoints and compilation.
      loss: nats per token; NaN if it was not finite.
      bits_per_byte: likewise.
    """

    step: int
    seconds: float
    loss: float
    bits_per_byte: float


class ScoredText(NamedTuple):
    """The held-out text of a run.

    Attributes:
      fingerprint: of its documents and their tokens; for a run without a record of its corpus, the
        options of the corpus.
      names: of its documents; None: not recorded.
      vocabulary: name of the vocabulary.
      limit: the tokens to which evaluations were limited; None: all are scored.
    """

    fingerprint: Any
    names: frozenset[str] | None
    vocabulary: str | None
    limit: int | None

    def has_same_bytes(self, other: "ScoredText") -> bool:
        """Whether bits per byte can be compared.

        With another vocabulary, the same documents have other tokens and another fingerprint, and
        then their names decide.
        """
        if self.fingerprint == other.fingerprint:
            return self.limit == other.limit
        other_tokens = self.vocabulary != other.vocabulary
        is_whole = self.limit is None and other.limit is None
        return other_tokens and is_whole and self.names is not None and self.names == other.names


class ComparedRun(NamedTuple):
    """A run.

    Attributes:
      name: what it is called in tables.
      config: its configuration.
      corpus: fingerprints of all its documents, by split; for a run without a record of its corpus,
        the options of the corpus.
      text: what its evaluations score.
      lossy: a mark of its bits per byte if its vocabulary loses text, else "".
      step: steps done, as far as metrics were written.
      seconds_per_step: the median over the lines of metrics; NaN: not known yet.
      num_params: number of its parameters.
      points: its evaluations, in order.
      changes: what changed in it on the way, in lines that begin with the step.
    """

    name: str
    config: RunConfig
    corpus: Any
    text: ScoredText
    lossy: str
    step: int
    seconds_per_step: float
    num_params: int
    points: list[Point]
    changes: list[str]

    @property
    def last(self) -> Point | None:
        """The newest evaluation, if there is one."""
        return self.points[-1] if self.points else None

    @property
    def best(self) -> Point | None:
        """The evaluation with the lowest loss, if there is one with a finite loss."""
        finite = [point for point in self.points if math.isfinite(point.loss)]
        return min(finite, key=lambda point: point.loss, default=None)


def read_run(workdir: AnyPath, name: str) -> ComparedRun:
    """Reads a run from its folder.

    Raises:
      UserError: the folder contains no run, or a run without metrics.
    """
    config = read_config(workdir)
    with explain_path_errors(workdir, "read"):
        history = [line for line in read_metrics(workdir) if "split" in line]
        record, changes = _corpus_record(workdir), read_changes(workdir)
    if not history:
        raise UserError(
            f"{workdir} has no metrics to compare (metrics.jsonl is missing or empty): train "
            "first, or leave it out"
        )
    held_out = [line for line in history if line["split"] == "held_out"]
    train = [line for line in history if line["split"] == "train"]
    steps, paces = _training_pace(config, train)
    seconds = np.cumsum(paces * np.diff(steps, prepend=0))
    points = [
        Point(
            line["step"],
            float(np.interp(line["step"], [0, *steps], [0, *seconds])) if len(steps) else math.nan,
            _number(line.get("loss")),
            _number(line.get("bits_per_byte")),
        )
        for line in held_out
    ]
    return ComparedRun(
        name,
        config,
        frozenset((split, one.get("fingerprint")) for split, one in record.items()) or config.data,
        _scored_text(config, record.get("held_out", {}), held_out),
        max(map(lossy_mark, history)),
        max(line["step"] for line in history),
        float(np.median(paces)) if len(paces) else math.nan,
        count_parameters(config.model),
        points,
        changes,
    )


@functools.cache
def count_parameters(model: ModelConfig) -> int:
    """The number of parameters of a model, which is not built."""
    _, params = abstract_model(model)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _training_pace(
    config: RunConfig, train: Sequence[Mapping[str, Any]]
) -> tuple[Int[np.ndarray, " lines"], Float[np.ndarray, " lines"]]:
    """The last step of each line of training metrics, and the seconds that each of its steps took.

    A line without a speed, because no step was finite, is taken to be as fast as the others. Both
    are empty if no line has one.
    """
    rows, length = config.train.batch_size, config.train.segment_length
    steps = np.array([line["step"] for line in train], int)
    paces = []
    for line, count in zip(train, np.diff(steps, prepend=0), strict=True):
        finite = count - line.get("nonfinite_steps", 0)
        tokens = finite * rows * length * (1 - _number(line.get("padding")))
        speed = _number(line.get("tokens_per_second"))
        paces.append(tokens / speed / count if speed > 0 and count > 0 else math.nan)
    known = [pace for pace in paces if math.isfinite(pace)]
    if not known:
        return steps[:0], np.zeros(0)
    return steps, np.where(np.isfinite(paces), paces, statistics.median(known))


def _corpus_record(workdir: AnyPath) -> dict[str, dict[str, Any]]:
    """What corpus.json says about each split; {} without such a record."""
    try:
        record = json.loads((workdir / RECORD).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return {split: one for split, one in record.items() if isinstance(one, dict)}


def _scored_text(
    config: RunConfig, record: Mapping[str, Any], held_out: Sequence[Mapping[str, Any]]
) -> ScoredText:
    is_part = any("tokens" in line for line in held_out)
    names = record.get("lengths")
    return ScoredText(
        record.get("fingerprint", config.data),
        None if names is None else frozenset(names),
        config.data.vocabulary,
        config.train.eval_tokens if is_part else None,
    )


def _number(value: float | None) -> float:
    """null in metrics.jsonl stands for a value that was not finite."""
    return math.nan if value is None else value
