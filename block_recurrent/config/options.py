"""Every option of a run but those of the model, which `model.config` has."""

import dataclasses
import os
import re
from typing import Annotated, Literal

from block_recurrent.errors import UserError

# The first pattern found in a parameter's path says how its axes are split; no match: replicated.
# The cell's output kernel reads two attentions side by side: it is split in its outputs alone.
RULES = (
    r"(query|key|value|hidden)/kernel$: fsdp, tensor",
    r"(ffn|attention)/output/kernel$: tensor, fsdp",
    r"output/kernel$: -, fsdp",
    r"embedding$: -, fsdp",
)


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


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """What `optimizer.…` in a gin file sets. The defaults are the paper's.

    Attributes:
      name: 'adafactor', as the authors; 'adamw'; or 'muon', which orthogonalises the updates of the
        kernels and leaves all else to Adafactor: by far the fastest learner in short runs.
      learning_rate: the highest, at the end of the warm-up. Adafactor multiplies it by the root
        mean square of each parameter, so that it means a relative change there; Muon's update of
        a kernel has a root mean square of 0.2 times it.
      schedule: after the warm-up: 'rsqrt' (∝ 1/√step), 'cosine', 'linear' or 'constant'.
      warmup_steps: steps of linear warm-up.
      decay_steps: the step at which cosine and linear reach their end; None: train.num_steps.
      end_fraction: what cosine and linear end at, as a fraction of learning_rate.
      clip_norm: largest norm of the gradient, all parameters together; None: no clipping.
      weight_decay: matrices shrink by learning rate · weight_decay a step, others never do.
      beta1: decay of the momentum; 0 for none.
      beta2: of AdamW's second moment. Adafactor's decay is 1 − step^−0.8.
    """

    name: Literal["adafactor", "adamw", "muon"] = "adafactor"
    learning_rate: Annotated[float, "a step"] = 0.0316
    schedule: Literal["rsqrt", "cosine", "linear", "constant"] = "rsqrt"
    warmup_steps: Annotated[int, "steps"] = 1000
    decay_steps: Annotated[int | None, "steps"] = None
    end_fraction: Annotated[float, "fraction"] = 0.1
    clip_norm: Annotated[float | None, "L2 norm"] = None
    weight_decay: Annotated[float, "a step"] = 0.0
    beta1: Annotated[float, "a step"] = 0.9
    beta2: Annotated[float, "a step"] = 0.99

    def __post_init__(self):
        if self.clip_norm == 0:
            raise UserError("optimizer.clip_norm = 0 stops all learning: None switches it off")

    @property
    def ends(self) -> bool:
        """Whether the schedule runs towards a last step."""
        return self.schedule in ("cosine", "linear")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What `data.…` in a gin file sets.

    Attributes:
      corpus: 'standard_library' (Python's own source, on every machine), 'text_files' (the files of
        a folder), 'store' (token stores made by prepare_data), or 'recall' (made-up documents with
        facts at the start and questions about them at the end).
      path: the folder of text files, or of what prepare_data reads.
      glob: which files of the folder, for example '**/*.txt'.
      held_out_per_mille: documents in a thousand kept for evaluation, chosen by their names; a
        token store has its own.
      stores: folders of token stores; several are mixed.
      weights: one a store: the tokens read of each are in this proportion; empty: as they are.
      vocabulary: the name of the one that the tokens must be of; None: that of the corpus, which
        the config.gin of a run then names.
      recall_facts: that a document of 'recall' states, and asks for.
      recall_values: that a fact may have; a guess is right in one of so many.
      recall_filler: least and most between facts and questions, uniform in the logarithm.
    """

    corpus: Literal["standard_library", "text_files", "store", "recall"] = "standard_library"
    path: str | None = None
    glob: str = "**/*"
    held_out_per_mille: Annotated[int, "‰ of documents"] = 20
    stores: tuple[str, ...] = ()
    weights: Annotated[tuple[float, ...], "tokens, relative"] = ()
    vocabulary: str | None = None
    recall_facts: Annotated[int, "facts"] = 8
    recall_values: Annotated[int, "values"] = 16
    recall_filler: Annotated[tuple[int, ...], "bytes"] = (1, 2048)

    def resolved(self, vocabulary: str) -> "DataConfig":
        """The same, good from any folder and for no other vocabulary: what a run keeps."""
        path = None if self.path is None else _absolute(self.path)
        stores = tuple(map(_absolute, self.stores))
        return dataclasses.replace(self, path=path, stores=stores, vocabulary=vocabulary)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """What `mesh.…` in a gin file sets: how many ways each axis splits.

    Attributes:
      data: the batch; -1 takes all devices that the other axes leave.
      fsdp: the batch, *and* the parameters, which are gathered where they are used.
      tensor: attention heads and feed-forward units.
      rules: 'pattern: axis, axis' for parameters, the first pattern found in a parameter's path
        counts; an axis is 'fsdp', 'tensor' or '-' for none.
    """

    data: Annotated[int, "ways"] = -1
    fsdp: Annotated[int, "ways"] = 1
    tensor: Annotated[int, "ways"] = 1
    rules: tuple[str, ...] = RULES

    def __post_init__(self):
        for rule in self.rules:
            parse_rule(rule)


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """What `distributed.…` in a gin file sets.

    Attributes:
      cluster: 'auto' (SLURM, Open MPI or TPU where they are there, else a process of its own),
        'slurm', 'ompi', 'mpi4py', 'k8s' (needs the package kubernetes), 'tpu', or 'none'.
      coordinator_address: 'host:port' of process 0, where no cluster tells it.
      num_processes: in all, where no cluster tells it.
      heartbeat_seconds: after so long a silence a process counts as lost, and the others end.
    """

    cluster: Literal["auto", "slurm", "ompi", "k8s", "mpi4py", "tpu", "none"] = "auto"
    coordinator_address: str | None = None
    num_processes: Annotated[int | None, "processes"] = None
    heartbeat_seconds: Annotated[int, "seconds"] = 60


@dataclasses.dataclass(frozen=True)
class WatchConfig:
    """What `watch.…` in a gin file sets.

    Attributes:
      slow_factor: a step that takes so many times the median, and 5 seconds, is told of.
      port: of http://127.0.0.1, where /metrics has the newest metrics for Prometheus; None: nothing
        listens.
    """

    slow_factor: Annotated[float, "× the median step"] = 10.0
    port: Annotated[int | None, "port"] = None


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """What `prepare.…` in a gin file sets.

    Attributes:
      task: name of a seqio Task or Mixture: 'pg19_bytes', 'pg19_tokens', 'arxiv', 'github',
        'text_files', or one of your own.
      module: Python module that registers Tasks and Mixtures of your own; imported first. Being
        code, it may be named by --gin_bindings alone, and by no gin file.
      vocabulary: of the Tasks named above: 'bytes', or the path of a SentencePiece model.
      tfds: TFDS dataset that arxiv, github and text_files read in place of the folder data.path, as
        'name', 'name/config' or 'name/config:version'.
      tfds_feature: the feature of its examples that holds the text of a document.
      tfds_data_dir: folder of the TFDS datasets; None: TFDS's own, ~/tensorflow_datasets.
      num_shards: parts in which each split is written, at most; a source of fewer files has fewer.
      num_processes: parts that are written at the same time; None: one for each core.
    """

    task: str | None = None
    module: str | None = None
    vocabulary: str = "bytes"
    tfds: str | None = None
    tfds_feature: str = "text"
    tfds_data_dir: str | None = None
    num_shards: Annotated[int, "files"] = 64
    num_processes: Annotated[int | None, "processes"] = None


def parse_rule(rule: str) -> tuple[re.Pattern, tuple[str | None, ...]]:
    """A rule's pattern and the mesh axis of each axis of the parameter."""
    pattern, _, axes = rule.rpartition(":")
    names = tuple(axis.strip() for axis in axes.split(","))
    used = [name for name in names if name != "-"]
    try:
        if not pattern or not set(used) <= {"fsdp", "tensor"} or len(set(used)) < len(used):
            raise re.error("write 'pattern: axis, axis', axes being fsdp, tensor or - for none")
        return re.compile(pattern), tuple(None if name == "-" else name for name in names)
    except re.error as error:
        raise UserError(f"mesh.rules holds {rule!r}: {error}") from error


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def check_segment(
    segment: int,
    window: int,
    segment_name: str = "segment_length",
    window_name: str = "window_length",
):
    """Raises UserError where the segment is no multiple of the window; the names are for it."""
    if segment % window:
        below = segment // window * window
        nearest = f"{below} and {below + window} are" if below else f"{window} is"
        raise UserError(
            f"{segment_name} = {segment} is no multiple of {window_name} = {window}: "
            f"{nearest} the nearest"
        )
