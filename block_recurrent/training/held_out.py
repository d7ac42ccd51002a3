"""Evaluation during training: the held-out loss, the memory worth, and a text sample."""

import math
from typing import Any

from block_recurrent.console.lossy import lossy_mark
from block_recurrent.data.documents import ByteDocuments
from block_recurrent.evaluation.evaluator import AfterBatch, Evaluator, evaluation_shape
from block_recurrent.evaluation.excerpt import Excerpt
from block_recurrent.evaluation.memory_worth import MemoryProbe
from block_recurrent.evaluation.score import compressed_bits_per_byte
from block_recurrent.parallel.processes import is_main_process
from block_recurrent.reporting.metrics_log import HELD_OUT
from block_recurrent.training.reporter import Reporter
from block_recurrent.training.setup import Setup
from block_recurrent.training.text_samples import text_sampler
from block_recurrent.training.train_step import TrainState

OVERFITTING = 1.3  # held-out over training loss, above which the run prints a note


class HeldOutEvaluation:
    """Scores the held-out documents and writes a sample::

        evaluation(step, state, reporter, after_batch)

    All processes must call it. If `after_batch` raises an exception, nothing is written.

    Raises:
      UserError: there are no held-out documents, or the vocabulary lacks characters of
        `train.sample_prompt`.

    Attributes:
      part: what is scored of the held-out documents, in words; None if it is everything.
      evaluator: scores the documents.
      probe: measures the memory worth; None if the model has no recurrent state.
      more_lanes: a number of lanes to recommend; None if there are as many as documents.
      sampler: writes text samples; None if the run writes none.
    """

    def __init__(self, setup: Setup):
        train, model = setup.config.train, setup.config.model
        everything = setup.documents["held_out"]
        self.num_steps, self.is_text = train.num_steps, isinstance(everything, ByteDocuments)
        self.documents, self.part = everything, None
        if train.eval_tokens is not None and train.eval_tokens < everything.num_tokens:
            self.documents = Excerpt(everything, train.eval_tokens)
            self.part = f"{train.eval_tokens:,} of {everything.num_tokens:,} tokens"
        count = len(setup.documents["train"].lengths)
        self.more_lanes = 2 * train.num_lanes if train.num_lanes < count else None
        ways = setup.layout.row_ways
        shape = train.rows_at_once, train.segment_length
        shape = evaluation_shape(self.documents, model, *shape, ways)
        self.evaluator = Evaluator(
            setup.graphdef, self.documents, model.window_length, *shape, setup.layout
        )
        self.probe = None
        if model.has_recurrent_state:
            self.probe = MemoryProbe(self.evaluator, train.segment_length)
        self.sampler = text_sampler(setup.graphdef, setup.params, train, everything, setup.layout)

    def __call__(self, step: int, state: TrainState, reporter: Reporter, after_batch: AfterBatch):
        metrics, averaged = self.score(state.params, after_batch), None
        if state.averaged is not None:
            averaged = self.score(state.averaged, after_batch)
        if self.probe:
            metrics["memory_worth"] = self.probe.memory_worth(state.params, after_batch)
        sample = self.sampler and self.sampler(state.params)
        if not is_main_process():
            return
        if sample:
            reporter.write_text(step, *sample)
        if averaged:
            reporter.write(step, HELD_OUT["averaged"], averaged)
        reporter.write(step, HELD_OUT["raw"], metrics)  # last: it marks a complete evaluation
        reporter.note(self.describe(step, metrics))
        if averaged:
            reporter.note(f"step {step:,}, averaged weights: {describe_score(averaged)}")
        if note := overfitting_note(metrics["loss"], reporter.training_loss(), self.more_lanes):
            reporter.note(f"step {step:,}: {note}")
        if sample:
            reporter.note(f"step {step:,}: {sample.note()}")

    def score(self, params: dict[str, Any], after_batch: AfterBatch) -> dict[str, float]:
        """The metrics of these parameters."""
        score = self.evaluator(params, after_batch)
        return score.metrics() | ({"tokens": score.num_tokens} if self.part else {})

    def describe(self, step: int, metrics: dict[str, float]) -> str:
        """The metrics in one line; after the last step, also the scores of general compressors."""
        line = f"step {step:,}: {describe_score(metrics)}"
        if self.probe:
            line += f", memory worth {metrics['memory_worth']:.4f} bits per token"
        if self.part:
            line += f", over {self.part}"
        if step == self.num_steps and self.is_text:
            others = compressed_bits_per_byte(self.documents)
            others = ", ".join(f"{name} {bits:.3f}" for name, bits in others.items())
            line += f"; the same documents compressed one by one: {others}"
        return line


def describe_score(metrics: dict[str, float]) -> str:
    """The metrics that every evaluation has, in words."""
    bits = f"held-out bits per byte {metrics['bits_per_byte']:.3f}{lossy_mark(metrics)}"
    return f"{bits}, accuracy {metrics['accuracy']:.3f}"


def overfitting_note(held_out: float, training: float, more_lanes: int | None) -> str | None:
    """What to do about a held-out loss far above the training loss; None if it is not.

    Args:
      held_out: the held-out loss.
      training: the training loss of the last steps, in the same unit.
      more_lanes: a number of lanes to try; None if there are as many lanes as documents.
    """
    ratio = held_out / training if training else math.nan
    if not (math.isfinite(ratio) and ratio > OVERFITTING):
        return None
    fix = "train on more text"
    if more_lanes:
        fix = f"in a new run, set train.lanes = {more_lanes}, or {fix}"
    return (
        f"the held-out loss is {ratio:.2f} × the training loss, so the model may be overfitting "
        f"the documents that it is reading: {fix}"
    )
