"""Every option of a run except those of the model, which are in `model.config`."""

import dataclasses
import encodings.aliases
import os
import re
from typing import Annotated, Literal

from block_recurrent.errors import UserError
from block_recurrent.fields import Range, checked, nearest
from block_recurrent.files.paths import is_url

AUTO_LANES = 512  # by the measurements in docs/results.md
Steps = Annotated[int, "steps", Range(1)]
# '~' is the home folder: shells leave it as it is in quotes and after '='. URLs stay as they are.
LocalPath = Annotated[str, os.path.expanduser]

# See `MeshConfig.rules`. The input of the cell's output kernel is two concatenated attention
# results, so only its output axis is split.
RULES = (
    r"(query|key|value|hidden|factor)/kernel$: fsdp, tensor",
    r"(ffn|attention)/output/kernel$: tensor, fsdp",
    r"output/kernel$: -, fsdp",
    r"embedding$: -, fsdp",
)


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
        folder profile/ of the run; (): no profile.
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
class DataConfig:
    """The corpus: `data.…` in a gin file.

    Attributes:
      corpus: 'standard_library' (Python's own source, on every machine), 'text_files' (the text in
        a file or a folder), 'store' (token stores made by prepare_data), or 'recall' (generated
        documents with facts at the start and questions about them at the end).
      path: the file or folder with the text, on disk or at a URL such as gs://bucket/texts.
      glob: which files of the folder, or of the archive, for example '**/*.txt', or several such
        patterns.
      held_out_per_mille: share of the documents held out for evaluation, chosen by name, if
        held_out is () and no file or folder is called valid, validation, val or dev; a token store
        has its own split.
      held_out: what to hold out instead: patterns of paths in the folder or in archives, or paths
        of files or folders, also elsewhere.
      encoding: of text, CSV and JSON files, which are converted to UTF-8, for example 'utf-16',
        'shift_jis' or 'latin_1'; 'detect': guessed for each file by charset-normalizer; None: their
        bytes are trained on as they are.
      allow_binary: whether to train on documents that are no text, such as PDF or images, as bytes.
      format: of all files: 'text', 'json', 'csv', 'tsv', 'parquet' or 'arrow'; 'auto': by suffix.
        Compressed files and archives are always recognised by their suffix.
      separator: cuts text files into documents, such as '<|endoftext|>'. After 're:' it is a
        regular expression. None: a file is a document.
      text_field: the field, or column, that holds the text of a row. Of this and all other fields,
        'a.b' is the field 'b' inside the field 'a'.
      name_field: the field that names a row's document; None: the file and the number of the row.
      group_by: rows with the same value in this field are one document; None: each row is one.
      order_by: the field by which the rows of such a document are sorted; None: as they come.
      skip_bad_rows: leave out rows without text or that cannot be read, instead of refusing them.
      stores: folders of token stores; several are mixed.
      weights: one per store: the ratio in which their tokens are read; empty: by their sizes.
      vocabulary: name of the vocabulary that the corpus must have; None: any. The config.gin of a
        run names the one it was trained with.
      recall_facts: facts in a document of 'recall', each of which is asked for.
      recall_values: possible values of a fact; a guess is right with probability 1 / recall_values.
      recall_filler: least and most bytes between facts and questions, uniform in the logarithm.
    """

    corpus: Literal["standard_library", "text_files", "store", "recall"] = "standard_library"
    path: LocalPath | None = None
    glob: str | tuple[str, ...] = "**/*"
    held_out_per_mille: Annotated[int, "‰ of documents", Range(1, most=999)] = 20
    format: Literal["auto", "text", "json", "csv", "tsv", "parquet", "arrow"] = "auto"
    separator: str | None = None
    text_field: str = "text"
    name_field: str | None = None
    group_by: str | None = None
    order_by: str | None = None
    skip_bad_rows: bool = False
    held_out: LocalPath | tuple[LocalPath, ...] = ()
    encoding: str | None = None
    allow_binary: bool = False
    stores: tuple[LocalPath, ...] = ()
    weights: tuple[Annotated[float, "tokens, relative", Range(above=0)], ...] = ()
    vocabulary: str | None = None
    recall_facts: Annotated[int, "facts", Range(1)] = 8
    recall_values: Annotated[int, "values", Range(2)] = 16
    recall_filler: tuple[Annotated[int, "bytes", Range(1)], ...] = (1, 2048)

    def __post_init__(self):
        for name in ("path", "glob", "held_out", "stores"):
            value = getattr(self, name)
            items = (value,) if isinstance(value, str | None) else value
            if "" in items or (name == "glob" and not items):
                what = "'.' is the current folder" if name != "glob" else "'**/*' is every file"
                raise UserError(f"data.{name} = {value!r} names nothing: {what}")
        if self.encoding not in (None, "detect"):
            check_encoding(self.encoding)

    def resolved(self, vocabulary: str) -> "DataConfig":
        """The same with absolute paths and the vocabulary's name, as saved in config.gin."""
        path = None if self.path is None else _absolute(self.path)
        stores = tuple(map(_absolute, self.stores))
        held_out = self.held_out
        if path is not None:
            items = (held_out,) if isinstance(held_out, str) else held_out
            held_out = tuple(_absolute_outside(path, item) for item in items)
        return dataclasses.replace(
            self, path=path, stores=stores, held_out=held_out, vocabulary=vocabulary
        )


@checked
@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The device mesh: `mesh.…` in a gin file. The sizes of its axes, and what they split.

    A parameter is split by the first rule whose pattern is found in its path. Later rules are
    ignored, even if the first one cannot be applied. An axis of the parameter is not split if its
    size is not a multiple of the mesh axis; its other axes are still split. A parameter that
    matches no rule is replicated. Optimizer state is replicated if it has another number of axes
    than the rule, such as the row and column sums of Adafactor.

    Attributes:
      data: splits the batch; -1: all devices that are left over by the other axes.
      fsdp: splits the batch *and* the parameters, which are gathered when they are used.
      tensor: splits attention heads and feed-forward units.
      sequence: splits segments that are too long for the memory of a device (sequence parallelism).
        The recurrence runs on one of these devices after the other, while the others wait.
      rules: 'pattern: axis, axis' for parameters: a regular expression, and for each axis of the
        parameter the mesh axis that splits it: 'fsdp', 'tensor', or '-' for none.
    """

    data: Annotated[int, "ways", Range(-1)] = -1
    fsdp: Annotated[int, "ways", Range(1)] = 1
    tensor: Annotated[int, "ways", Range(1)] = 1
    sequence: Annotated[int, "ways", Range(1)] = 1
    rules: tuple[str, ...] = RULES

    def __post_init__(self):
        if self.data == 0:
            raise UserError("mesh.data = 0: must be at least 1, or -1 for all that are left")
        for rule in self.rules:
            parse_rule(rule)


@checked
@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """How processes find each other: `distributed.…` in a gin file.

    Attributes:
      cluster: 'slurm', 'ompi', 'mpi4py', 'k8s' (needs the package kubernetes), 'tpu', 'none' (one
        process), or 'auto': SLURM, Open MPI or TPU where one is found, else one process.
      coordinator_address: 'host:port' of process 0, if no cluster provides it.
      num_processes: number of processes, if no cluster provides it.
      heartbeat_seconds: a process that is silent for this long is considered lost, and the others
        exit.
    """

    cluster: Literal["auto", "slurm", "ompi", "k8s", "mpi4py", "tpu", "none"] = "auto"
    coordinator_address: str | None = None
    num_processes: Annotated[int, "processes", Range(1)] | None = None
    heartbeat_seconds: Annotated[int, "seconds", Range(1)] = 60


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


@checked
@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """How a token store is made: `prepare.…` in a gin file.

    Attributes:
      task: name of a seqio Task or Mixture: 'pg19_bytes', 'pg19_tokens', 'arxiv', 'github',
        'text_files', or your own.
      module: Python module that registers your own Tasks and Mixtures; it is imported first.
        Because it is code, it can only be set with --gin_bindings, not in a gin file.
      vocabulary: of the Tasks named above: 'bytes', or the path of a SentencePiece model or of a
        tokenizer.json.
      allow_lossy_vocabulary: whether the vocabulary may lose more than 0.1 % of the text, such as
        characters that it lacks. Bits per byte are then marked as not comparable.
      tfds: TFDS dataset that arxiv, github and text_files read instead of the folder data.path, as
        'name', 'name/config' or 'name/config:version'.
      tfds_feature: the feature of its examples that holds the text of a document.
      tfds_data_dir: folder of the TFDS datasets; None: TFDS's default, ~/tensorflow_datasets.
      num_shards: number of shards per split, at most; a source with fewer files has fewer.
      num_processes: number of shards written at the same time; None: one per core.
    """

    task: str | None = None
    module: str | None = None
    vocabulary: LocalPath = "bytes"
    allow_lossy_vocabulary: bool = False
    tfds: str | None = None
    tfds_feature: str = "text"
    tfds_data_dir: LocalPath | None = None
    num_shards: Annotated[int, "files", Range(1)] = 64
    num_processes: Annotated[int, "processes", Range(1)] | None = None


def parse_rule(rule: str) -> tuple[re.Pattern, tuple[str | None, ...]]:
    """Parses a rule of `MeshConfig`: its pattern, and the mesh axis for each parameter axis.

    Raises:
      UserError: the text is not a valid rule.
    """
    pattern, _, axes = rule.rpartition(":")
    names = tuple(axis.strip() for axis in axes.split(","))
    used = [name for name in names if name != "-"]
    try:
        if not pattern or not set(used) <= {"fsdp", "tensor"} or len(set(used)) < len(used):
            raise re.error("write 'pattern: axis, axis', where an axis is fsdp, tensor or - (none)")
        return re.compile(pattern), tuple(None if name == "-" else name for name in names)
    except re.error as error:
        raise UserError(f"mesh.rules contains {rule!r}: {error}") from error


def check_encoding(encoding: str):
    """Raises UserError if `data.encoding` names no encoding of text; names the nearest one."""
    try:
        "".encode(encoding)
    except LookupError as error:
        known = encodings.aliases.aliases
        close = nearest(encoding, sorted({*known, *known.values()}))
        hint = f"did you mean '{close}'?" if close else "choose one that Python knows, or 'detect'"
        raise UserError(f"data.encoding = '{encoding}' is no encoding of text: {hint}") from error


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


def _absolute(path: str) -> str:
    return path if is_url(path) else os.path.abspath(path)


def _absolute_outside(folder: str, path: str) -> str:
    """The absolute path of a file or folder elsewhere; what lies in `folder` stays as it is."""
    absolute = _absolute(path)
    inside = os.path.join(folder, path)
    exists_only_elsewhere = os.path.exists(absolute) and not os.path.exists(inside)
    return absolute if exists_only_elsewhere else path
