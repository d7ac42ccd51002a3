"""The device mesh, and how arrays are split over it."""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from block_recurrent.config.device_options import RULES, MeshConfig, parse_rule
from block_recurrent.errors import UserError
from block_recurrent.model.config import ModelConfig

AXES = ("data", "fsdp", "sequence", "tensor")
ROWS = ("data", "fsdp")  # the axes that split the rows of the batch


def make_mesh(
    config: MeshConfig,
    model: ModelConfig,
    batch_size: int,
    available: Sequence[jax.Device] | None = None,
    microbatches: int = 1,
) -> Mesh:
    """Makes the mesh over the available devices; by default those of all processes.

    Raises:
      UserError: devices, batch, microbatches, heads or feed-forward units cannot be divided evenly.
    """
    available = jax.devices() if available is None else available
    devices = len(available)
    inner = config.fsdp * config.sequence * config.tensor
    data = devices // inner if config.data == -1 else config.data
    shape = data, config.fsdp, config.sequence, config.tensor
    if data * inner != devices:
        names, sizes = " × ".join(f"mesh.{axis}" for axis in AXES), " × ".join(map(str, shape))
        raise UserError(
            f"{names} = {sizes}, but there are {devices} devices: make the product {devices}"
        )
    rows = data * config.fsdp
    if batch_size % rows:
        raise UserError(
            f"train.batch_size = {batch_size} does not divide over mesh.data × mesh.fsdp = "
            f"{rows}: use a multiple of {rows}"
        )
    _check_microbatches(microbatches, batch_size, rows)
    for name in ("num_heads", "mlp_dim"):
        size = getattr(model, name)
        if size % config.tensor:
            fits = ", ".join(str(n) for n in range(1, devices + 1) if size % n == devices % n == 0)
            raise UserError(
                f"BlockRecurrentTransformer.{name} = {size} does not divide over mesh.tensor = "
                f"{config.tensor}: on {devices} devices, set mesh.tensor to one of {fits}"
            )
    automatic = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(shape, AXES, axis_types=automatic, devices=available)


def _check_microbatches(microbatches: int, batch_size: int, devices: int):
    """Raises UserError if the rows of each of the devices do not divide into equal parts."""
    own = batch_size // devices
    if own % microbatches:
        fits = ", ".join(str(number) for number in range(1, own + 1) if own % number == 0)
        raise UserError(
            f"train.microbatches = {microbatches} does not divide the {own} rows of each device "
            f"(train.batch_size = {batch_size} over mesh.data × mesh.fsdp = {devices}): set it to "
            f"one of {fits}, or train.batch_size to a multiple of {microbatches * devices}"
        )


def split_heads(config: MeshConfig, model: ModelConfig) -> ModelConfig:
    """The model's configuration, with XLA's attention if the mesh splits the heads.

    Raises:
      UserError: the model requires the fused kernels, which cannot train with split heads.
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
    """How arrays are split over the devices of a mesh.

    Args:
      mesh: the devices.
      rules: see `MeshConfig`.
    """

    def __init__(self, mesh: Mesh, rules: Sequence[str] = RULES):
        self.mesh, self.rules = mesh, [parse_rule(rule) for rule in rules]

    @property
    def row_ways(self) -> int:
        """In how many ways the rows of a batch are split."""
        return math.prod(self.mesh.shape[axis] for axis in ROWS)

    @property
    def sequence_axis(self) -> str | None:
        """The axis that splits segments; None: they are whole."""
        return "sequence" if self.mesh.shape["sequence"] > 1 else None

    @property
    def replicated(self) -> NamedSharding:
        """A whole copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def rows(self) -> NamedSharding:
        """Split along the first axis, the rows of the batch."""
        return NamedSharding(self.mesh, PartitionSpec(ROWS))

    def model_state(self, tree):
        """Shardings of a `ModelState`: by rows, and caches also by heads."""

        def sharding(leaf):
            heads = ("tensor",) if len(leaf.shape) == 4 else ()
            return NamedSharding(self.mesh, PartitionSpec(ROWS, *heads))

        return jax.tree.map(sharding, tree)

    def parameters(self, tree):
        """Shardings between steps of parameters, or of optimizer state with the same paths."""
        return self._by_rule(tree, AXES)

    def gather(self, params):
        """Inside a step: gathers parameters, so that they are split only along the tensor axis.

        Without this constraint, XLA might split and gather activations instead, which are larger.
        """
        return jax.lax.with_sharding_constraint(params, self._by_rule(params, ("tensor",)))

    def by_rows(self, function):
        """Wraps `function(params, state, batch, shared)`, so that each device runs it on its rows.

        All results are of these rows. If the tensor axis has more than one device, XLA still splits
        the work along it.
        """
        rows, whole = PartitionSpec(ROWS), PartitionSpec()
        return self._map(function, (whole, rows, rows, whole), rows)

    def gradients_by_parts(self, function):
        """Like `by_rows`, for gradients. The sequence axis splits the batch too, by segments.

        The function returns gradients, sums over its part of the segments ``[B, 1]``, and a state,
        which belongs to the whole segments. Gradients are summed over devices only once, at the
        end; otherwise XLA sums them in every iteration of a loop.
        """
        rows, whole = PartitionSpec(ROWS), PartitionSpec()
        parts = PartitionSpec(ROWS, "sequence")

        def summed(*arguments):
            grads, others = function(*arguments)
            return jax.lax.psum(grads, (*ROWS, "sequence")), others

        return self._map(summed, (whole, rows, parts, whole), (whole, (parts, rows)))

    def _map(self, function, in_specs, out_specs):
        by_xla = self.mesh.shape["tensor"] > 1
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            axis_names=set(AXES[:-1] if by_xla else AXES),
            check_vma=False,
        )

    def scatter(self, grads):
        """Inside a step: splits gradients as the parameters are split between steps."""
        return jax.lax.with_sharding_constraint(grads, self.parameters(grads))

    def split_state(self, state):
        """Inside a step: splits a `ModelState` as it is split between steps."""
        return jax.lax.with_sharding_constraint(state, self.model_state(state))

    def local_rows(self, batch_size: int) -> slice:
        """The rows of the global batch that the devices of this process hold.

        Raises:
          UserError: the rows are not contiguous.
        """
        indices = self.rows.addressable_devices_indices_map((batch_size,)).values()
        spans = {index[0].indices(batch_size)[:2] for index in indices}
        first, last = min(start for start, _ in spans), max(stop for _, stop in spans)
        if sum(stop - start for start, stop in spans) != last - first:
            raise UserError(
                f"the devices of process {jax.process_index()} hold the rows {sorted(spans)}, "
                "which are not contiguous: make mesh.data × mesh.fsdp a multiple of the number of "
                "processes"
            )
        return slice(first, last)

    def put(self, batch):
        """Makes the global arrays of a batch from the rows of this process."""
        return jax.make_array_from_process_local_data(self.rows, batch)

    def _by_rule(self, tree, axes: Sequence[str]):
        """Shardings by the rules of `MeshConfig`, along these axes of the mesh."""

        def sharding(path, leaf):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            rule = next((spec for pattern, spec in self.rules if pattern.search(name)), ())
            if len(rule) != leaf.ndim:  # no rule, or factored optimizer state
                return self.replicated
            split = [
                axis if axis in axes and size % self.mesh.shape[axis] == 0 else None
                for axis, size in zip(rule, leaf.shape, strict=True)
            ]
            spec = PartitionSpec(*split) if any(split) else PartitionSpec()
            return NamedSharding(self.mesh, spec)

        return jax.tree_util.tree_map_with_path(sharding, tree)


def bytes_per_device(tree) -> int:
    """Bytes per device of a tree of arrays, or of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
