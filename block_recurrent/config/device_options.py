"""The options of the devices: the mesh, and how processes find each other."""

import dataclasses
import re
from typing import Annotated, Literal

from block_recurrent.errors import UserError
from block_recurrent.fields import Range, checked

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
