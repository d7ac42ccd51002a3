"""Where arrays live: the device mesh, and the rules that lay parameters over it."""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from block_recurrent.config.options import RULES, MeshConfig, parse_rule
from block_recurrent.errors import UserError
from block_recurrent.model.config import ModelConfig

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the axes that the rows of the batch are split over


def make_mesh(
    config: MeshConfig,
    model: ModelConfig,
    batch_size: int,
    available: Sequence[jax.Device] | None = None,
) -> Mesh:
    """The mesh over all devices of all processes, or over those available.

    Raises:
      UserError: devices, batch, heads or feed-forward units do not divide.
    """
    available = jax.devices() if available is None else available
    devices = len(available)
    inner = config.fsdp * config.tensor
    data = devices // inner if config.data == -1 else config.data
    if data * inner != devices:
        raise UserError(
            f"mesh.data × mesh.fsdp × mesh.tensor = {data} × {config.fsdp} × {config.tensor}, "
            f"but there are {devices} devices: make the product {devices}"
        )
    rows = data * config.fsdp
    if batch_size % rows:
        raise UserError(
            f"train.batch_size = {batch_size} does not divide over mesh.data × mesh.fsdp = "
            f"{rows}: use a multiple of {rows}"
        )
    for name in ("num_heads", "mlp_dim"):
        size = getattr(model, name)
        if size % config.tensor:
            fits = ", ".join(str(n) for n in range(1, devices + 1) if size % n == devices % n == 0)
            raise UserError(
                f"BlockRecurrentTransformer.{name} = {size} does not divide over mesh.tensor = "
                f"{config.tensor}: on {devices} devices {fits} would"
            )
    automatic = (AxisType.Auto,) * len(AXES)
    shape = data, config.fsdp, config.tensor
    return jax.make_mesh(shape, AXES, axis_types=automatic, devices=available)


def split_heads(config: MeshConfig, model: ModelConfig) -> ModelConfig:
    """The model, its attention by XLA if its heads are split.

    Raises:
      UserError: the model asks for the fused kernels, which train with whole heads only.
    """
    if config.tensor == 1:
        return model
    if model.attention_kernel == "pallas":
        raise UserError(
            f"attention_kernel = 'pallas' does not split over mesh.tensor = {config.tensor}: set "
            "BlockRecurrentTransformer.attention_kernel = 'auto', or mesh.tensor = 1"
        )
    return dataclasses.replace(model, attention_kernel="xla")


class Layout:
    """Which part of each array a device of the mesh holds.

    Args:
      mesh: the devices.
      rules: as in `MeshConfig`.
    """

    def __init__(self, mesh: Mesh, rules: Sequence[str] = RULES):
        self.mesh, self.rules = mesh, [parse_rule(rule) for rule in rules]

    @property
    def replicated(self) -> NamedSharding:
        """Whole, on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def rows(self) -> NamedSharding:
        """Split by the first axis, the rows of the batch."""
        return NamedSharding(self.mesh, PartitionSpec(ROWS))

    def model_state(self, tree):
        """Shardings of a `ModelState`: by rows, and caches by heads too."""

        def sharding(leaf):
            heads = ("tensor",) if len(leaf.shape) == 4 else ()
            return NamedSharding(self.mesh, PartitionSpec(ROWS, *heads))

        return jax.tree.map(sharding, tree)

    def parameters(self, tree):
        """Shardings of parameters, or of optimizer state that mirrors them, between steps."""
        return self._by_rule(tree, AXES)

    def gather(self, params):
        """Inside a step: parameters as they are used, whole but for the tensor axis.

        Said outright, or XLA might rather split and gather activations, which are larger.
        """
        return jax.lax.with_sharding_constraint(params, self._by_rule(params, ("tensor",)))

    def by_rows(self, function):
        """`function(params, state, batch, key)` over the rows that a device has.

        So gradients are summed over devices once, where XLA would do so in every round of a loop.
        XLA splits what is left to it over the tensor axis, if there is more than one way.
        """
        split, whole = PartitionSpec(ROWS), PartitionSpec()
        left = self.mesh.shape["tensor"] > 1
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=(whole, split, split, whole),
            out_specs=split,
            axis_names=set(ROWS if left else AXES),
            check_vma=False,
        )

    def scatter(self, grads):
        """Inside a step: gradients as the parameters lie between steps."""
        return jax.lax.with_sharding_constraint(grads, self.parameters(grads))

    def split_state(self, state):
        """Inside a step: a `ModelState` as it lies between steps."""
        return jax.lax.with_sharding_constraint(state, self.model_state(state))

    def rows_here(self, batch_size: int) -> slice:
        """The rows of the global batch that the devices of this process hold.

        Raises:
          UserError: they do not lie side by side.
        """
        indices = self.rows.addressable_devices_indices_map((batch_size,)).values()
        spans = {index[0].indices(batch_size)[:2] for index in indices}
        first, last = min(start for start, _ in spans), max(stop for _, stop in spans)
        if sum(stop - start for start, stop in spans) != last - first:
            raise UserError(
                f"the devices of process {jax.process_index()} hold the rows {sorted(spans)}, "
                "which are apart: choose mesh.data × mesh.fsdp as a multiple of the processes"
            )
        return slice(first, last)

    def put(self, batch):
        """The rows of this process as its part of global arrays."""
        return jax.make_array_from_process_local_data(self.rows, batch)

    def _by_rule(self, tree, axes: Sequence[str]):
        def sharding(path, leaf):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            for pattern, spec in self.rules:
                if pattern.search(name) and self._divides(spec, leaf.shape):
                    kept = (axis if axis in axes else None for axis in spec)
                    return NamedSharding(self.mesh, PartitionSpec(*kept))
            return NamedSharding(self.mesh, PartitionSpec())

        return jax.tree_util.tree_map_with_path(sharding, tree)

    def _divides(self, spec: Sequence[str | None], shape: tuple[int, ...]) -> bool:
        """Whether every axis splits evenly; factored optimizer state has other ranks."""
        ways = [1 if axis is None else self.mesh.shape[axis] for axis in spec]
        fits = (n % w == 0 for n, w in zip(shape, ways, strict=False))
        return len(shape) == len(spec) and all(fits)


def bytes_on_a_device(tree) -> int:
    """Bytes that one device holds of arrays, or of shapes, with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
