"""Length, batch and rhythm of a training run."""

import dataclasses
from typing import Annotated, Literal


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What `train.…` in a gin file sets.

    Attributes:
      num_steps: optimizer steps of the run.
      batch_size: rows of the global batch.
      segment_length: tokens a row in one step; a multiple of the model's window_length.
      initial_model: a file of block_recurrent.export, whose parameters the run begins with; None:
        random ones.
      seed: of the parameters, of dropout and of the order of the documents.
      log_every_steps: steps between two lines of metrics.
      eval_every_steps: steps between two evaluations on the held-out documents.
      checkpoint_every_steps: steps between two checkpoints.
      sample_tokens: how much the model writes at every evaluation, for people to look at; 0:
        nothing.
      sample_prompt: what it goes on from; None: the beginning of a held-out document.
      wandb_project: on Weights & Biases, to report to; None: nothing is reported there.
      on_nonfinite: after a step whose loss, gradient or recurrent state is not finite, and which
        changes nothing: 'skip' goes on with the next batch, 'roll_back' with the newest checkpoint
        and the next batch, 'stop' ends the run.
      max_nonfinite_steps: so many such steps in a row end the run whatever on_nonfinite says; under
        'roll_back', so many returns to the same checkpoint.
    """

    num_steps: Annotated[int, "steps"] = 1000
    batch_size: Annotated[int, "rows"] = 8
    segment_length: Annotated[int, "tokens"] = 512
    initial_model: str | None = None
    seed: int = 0
    log_every_steps: Annotated[int, "steps"] = 10
    eval_every_steps: Annotated[int, "steps"] = 500
    checkpoint_every_steps: Annotated[int, "steps"] = 500
    sample_tokens: Annotated[int, "tokens"] = 0
    sample_prompt: str | None = None
    wandb_project: str | None = None
    on_nonfinite: Literal["skip", "roll_back", "stop"] = "skip"
    max_nonfinite_steps: Annotated[int, "steps"] = 10
