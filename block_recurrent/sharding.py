"""Where arrays live: the device mesh, and the rules that lay parameters over it."""

import dataclasses
import re

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from block_recurrent.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))

# The first pattern found in a parameter's path says how its axes are split; no match: replicated.
RULES = (
    (r"(query|key|value|hidden)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"output/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"embedding$", PartitionSpec(None, "fsdp")),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """What `mesh.…` in a gin file sets: how many ways each axis splits.

    Attributes:
      data: the batch; -1 takes all devices that the other axes leave.
      fsdp: the batch *and* the embedding axis of the parameters.
      tensor: attention heads and feed-forward units.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(config: MeshConfig, batch_size: int) -> Mesh:
    """The mesh over all devices. Raises UserError where devices or batch do not divide."""
    devices = jax.device_count()
    inner = config.fsdp * config.tensor
    data = devices // inner if config.data == -1 else config.data
    if data * inner != devices:
        raise UserError(
            f"mesh.data × mesh.fsdp × mesh.tensor = {data} × {config.fsdp} × {config.tensor}, "
            f"but there are {devices} devices: make the product {devices}"
        )
    if batch_size % (data * config.fsdp):
        raise UserError(
            f"train.batch_size = {batch_size} does not divide over mesh.data × mesh.fsdp = "
            f"{data * config.fsdp}: use a multiple of {data * config.fsdp}"
        )
    automatic = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh((data, config.fsdp, config.tensor), AXES, axis_types=automatic)


def shard_parameters(mesh: Mesh, tree):
    """NamedShardings for a tree of parameters, or of optimizer state that mirrors them."""

    def sharding(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, spec in RULES:
            if re.search(pattern, name) and divides(mesh, spec, leaf.shape):
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(sharding, tree)


def divides(mesh: Mesh, spec: PartitionSpec, shape: tuple[int, ...]) -> bool:
    """Whether every axis of the shape splits evenly; factored optimizer state has other ranks."""
    ways = [1 if axis is None else mesh.shape[axis] for axis in spec]
    return len(shape) == len(spec) and all(n % w == 0 for n, w in zip(shape, ways, strict=True))


def shard_rows(mesh: Mesh, tree):
    """NamedShardings that split the first axis, the rows of the batch."""
    return jax.tree.map(lambda _: NamedSharding(mesh, BATCH), tree)
