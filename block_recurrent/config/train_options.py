"""The options of the training loop, of the optimizer and of the monitoring of a run."""

import dataclasses
from typing import Annotated, Literal

from block_recurrent.config.data_options import LocalPath
from block_recurrent.errors import UserError
from block_recurrent.fields import Range, checked

AUTO_LANES = 512  # by the measurements in docs/results.md
Steps = Annotated[int, "steps", Range(1)]


@checked
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The training loop: `train.…` in a gin file.

    Attributes:
      num_steps: optimizer steps of the run.
      batch_size: rows of the global batch.
      segment_length: tokens per row in one step; a multiple of the model's window_length.
      microbatches: parts of the batch that a step computes one after the other, in the memory of
        one part (gradient accumulation); divides the rows of each device. The update is that of the
        whole batch.
      lanes: documents that are open at the same time, each with its memory; a multiple of
        batch_size. A step trains batch_size of them, and they take turns. 'auto': 512,
        rounded up to such a multiple. None: batch_size.
      initial_model: a file written by block_recurrent.export; the run starts from its parameters.
        Recurrent cells, layers on top and n-grams that its model lacks begin as the identity. None:
        random parameters.
      seed: of the parameters, of dropout and of the order of the documents.
      log_every_steps: steps between two lines of metrics.
      eval_every_steps: steps between two evaluations on the held-out documents.
      eval_tokens: an evaluation during training scores at most this many tokens: whole documents,
        chosen by a hash of their names, and the head of one more. None: all held-out documents, as
        block_recurrent.evaluate does.
      checkpoint_every_steps: steps between two checkpoints.
      profile_steps: first and last step to profile, for example (100, 105), which writes to the
        folder profile/ of the run; an evaluation in between ends the profile. (): no profile.
      keep_checkpoints: how many of the newest checkpoints are kept.
      keep_best: how many of the best checkpoints, by the evaluations of the run, are kept too.
        Unless it is 0, a checkpoint is saved at every evaluation.
      keep_every_steps: checkpoints at multiples of this are kept too; a multiple of
        checkpoint_every_steps. None: none.
      best_metric: the held-out metric of the best checkpoint: 'loss' (lowest; bits per token, byte
        and character give the same order) or 'accuracy' (highest).
      patience: early stopping: the run ends when this many evaluations in a row have not improved
        best_metric. None: it ends after num_steps.
      sample_tokens: length of the text sample that the model writes at every evaluation; 0: none.
      sample_prompt: start of the text sample; None: the beginning of a held-out document.
      average_decay: decay β of an exponential moving average of the parameters, such as 0.999:
        those of n updates ago count β^n. It is saved, and evaluated beside the parameters. None: no
        average.
      wandb_project: Weights & Biases project to report to; None: no reports.
      on_nonfinite: what to do after a step whose loss, gradient or recurrent state is not finite
        (the step itself changes nothing): 'skip' continues with the next batch, 'roll_back'
        returns to the newest checkpoint and continues with the next batch, 'stop' ends the run.
      max_nonfinite_steps: this many such steps in a row end the run whatever on_nonfinite says;
        under 'roll_back', this many returns to the same checkpoint.
    """

    num_steps: Steps = 1000
    batch_size: Annotated[int, "rows", Range(1)] = 8
    segment_length: Annotated[int, "tokens", Range(1)] = 512
    microbatches: Annotated[int, "parts", Range(1)] = 1
    lanes: Annotated[int, "documents", Range(1)] | Literal["auto"] | None = None
    initial_model: LocalPath | None = None
    seed: Annotated[int, Range(0, below=2**32)] = 0
    log_every_steps: Steps = 10
    eval_every_steps: Steps = 500
    eval_tokens: Annotated[int, "tokens", Range(1)] | None = 1_000_000
    checkpoint_every_steps: Steps = 500
    profile_steps: tuple[Steps, ...] = ()
    keep_checkpoints: Annotated[int, "checkpoints", Range(1)] = 3
    keep_best: Annotated[int, "checkpoints", Range(0)] = 1
    keep_every_steps: Steps | None = None
    best_metric: Literal["loss", "accuracy"] = "loss"
    patience: Annotated[int, "evaluations", Range(1)] | None = None
    sample_tokens: Annotated[int, "tokens", Range(0)] = 0
    sample_prompt: str | None = None
    average_decay: Annotated[float, "per update", Range(above=0, below=1)] | None = None
    wandb_project: str | None = None
    on_nonfinite: Literal["skip", "roll_back", "stop"] = "skip"
    max_nonfinite_steps: Steps = 10

    def __post_init__(self):
        if self.num_lanes % self.batch_size:
            raise UserError(
                f"train.lanes = {self.lanes} is not a multiple of train.batch_size = "
                f"{self.batch_size}: set train.lanes = {self._rounded_up(self.lanes)}, or 'auto'"
            )
        if self.profile_steps:
            self._check_profile_steps()
        every, checkpoints = self.keep_every_steps, self.checkpoint_every_steps
        if every is not None and every % checkpoints:
            raise UserError(
                f"train.keep_every_steps = {every} is not a multiple of "
                f"train.checkpoint_every_steps = {checkpoints}: set it to "
                f"{-(-every // checkpoints) * checkpoints}"
            )

    def evaluates_after(self, step: int) -> bool:
        """Whether an evaluation is due after `step` steps."""
        return step > 0 and (step == self.num_steps or step % self.eval_every_steps == 0)

    def saves_after(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        return (
            step == self.num_steps
            or step % self.checkpoint_every_steps == 0
            or (self.keep_best > 0 and self.evaluates_after(step))
        )

    @property
    def rows_at_once(self) -> int:
        """Rows of the batch that are computed at once."""
        return self.batch_size // self.microbatches

    @property
    def num_lanes(self) -> int:
        """Documents that are open at the same time."""
        if self.lanes == "auto":
            return self._rounded_up(AUTO_LANES)
        return self.batch_size if self.lanes is None else self.lanes

    def _check_profile_steps(self):
        example = "write (first, last), such as (100, 105), or () for no profile"
        name = f"train.profile_steps = {self.profile_steps}"
        if len(self.profile_steps) != 2:
            raise UserError(f"{name}: must be two numbers of steps: {example}")
        first, last = self.profile_steps
        if first > last:
            raise UserError(f"{name}: the first step comes after the last one: {example}")
        if last > self.num_steps:
            raise UserError(
                f"{name}: the run ends after step {self.num_steps} (train.num_steps): {example}, "
                "with smaller numbers"
            )

    def _rounded_up(self, lanes: int) -> int:
        return -(-lanes // self.batch_size) * self.batch_size


@checked
@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer: `optimizer.…` in a gin file. The defaults are the paper's.

    Attributes:
      name: 'adafactor', as in the paper; 'adamw'; or 'muon', which orthogonalises the updates of
        the kernels and uses Adafactor for all other parameters: by far the fastest in short runs.
      learning_rate: the peak, reached at the end of the warm-up. Adafactor multiplies it by the
        root mean square of each parameter, which makes it a relative change. Muon's updates of a
        kernel have a root mean square of 0.2 · learning_rate.
      schedule: after the warm-up: 'rsqrt' (∝ 1/√step), 'cosine', 'linear' or 'constant'.
      warmup_steps: steps of linear warm-up; 0 and 1: the first step has the peak.
      decay_steps: the step at which cosine and linear reach their end; None: train.num_steps.
      end_fraction: where cosine and linear end, as a fraction of learning_rate.
      clip_norm: largest norm of the gradient of all parameters together; None: no clipping.
      weight_decay: kernels, the matrices that activations are multiplied with, shrink by learning
        rate · weight_decay per step. Embeddings, n-gram tables, norms, scales, biases, position
        biases, and the initial states and ids of recurrent states do not shrink.
      beta1: decay of the momentum; 0: no momentum.
      beta2: decay of AdamW's second moment. Adafactor's decay is 1 − step^−0.8.
    """

    name: Literal["adafactor", "adamw", "muon"] = "adafactor"
    learning_rate: Annotated[float, "per step", Range(0)] = 0.0316
    schedule: Literal["rsqrt", "cosine", "linear", "constant"] = "rsqrt"
    warmup_steps: Annotated[int, "steps", Range(0)] = 1000
    decay_steps: Steps | None = None
    end_fraction: Annotated[float, "fraction", Range(0)] = 0.1
    clip_norm: Annotated[float, "L2 norm", Range(above=0)] | None = None
    weight_decay: Annotated[float, "per step", Range(0)] = 0.0
    beta1: Annotated[float, "per step", Range(0, below=1)] = 0.9
    beta2: Annotated[float, "per step", Range(0, below=1)] = 0.99

    @property
    def ends(self) -> bool:
        """Whether the schedule decays to its end at `decay_steps`."""
        return self.schedule in ("cosine", "linear")


@checked
@dataclasses.dataclass(frozen=True)
class WatchConfig:
    """Monitoring of a run: `watch.…` in a gin file.

    Attributes:
      slow_factor: a step is reported as slow if it takes this many times the median, and more than
        5 seconds.
      port: port on 127.0.0.1 where /metrics serves the newest metrics to Prometheus; None: no
        server.
    """

    slow_factor: Annotated[float, "× the median step", Range(1)] = 10.0
    port: Annotated[int, "port", Range(1, below=2**16)] | None = None


def check_segment(
    segment: int,
    window: int,
    segment_name: str = "segment_length",
    window_name: str = "window_length",
):
    """Checks that a segment is a multiple of the window; the names are for the message.

    Raises:
      UserError: it is not.
    """
    if segment % window:
        below = segment // window * window
        nearest = f"{below} and {below + window} are" if below else f"{window} is"
        raise UserError(
            f"{segment_name} = {segment} is not a multiple of {window_name} = {window}: "
            f"{nearest} the nearest"
        )
