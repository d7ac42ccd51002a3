"""Device memory of the arrays of a run, and of its compiled step."""

import dataclasses
import os
import re
from collections.abc import Iterator

import jax
from jaxtyping import PyTree

from block_recurrent.config.run_config import RunConfig, check_parts
from block_recurrent.errors import UserError, first_line
from block_recurrent.parallel.sharding import bytes_per_device
from block_recurrent.training.train_step import TrainState

PARTS = {
    "params": "parameters",
    "averaged": "averaged parameters",
    "optimizer": "optimizer",
    "model": "model state",
}


def layout_table(state: TrainState) -> str:
    """A table of the run's arrays and how they are split over the mesh.

    It has one line per kind of array, over all layers, and the sums. Kinds that take less than a
    thousandth of the memory share one line.

    Args:
      state: arrays, or shapes with shardings.
    """
    rows = [("array", "number", "shape", "type", "split over", "per device")]
    kinds = [kind for part in PARTS for kind in _array_kinds(part, getattr(state, part))]
    least = sum(size for size, *_ in kinds) / 1000
    rows += [(*described, _mib(size)) for size, *described in kinds if size >= least]
    small = [(size, int(described[1])) for size, *described in kinds if size < least]
    if small:
        sizes, numbers = zip(*small, strict=True)
        rows.append(("smaller ones", str(sum(numbers)), "", "", "", _mib(sum(sizes))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", memory_line(state)])


def memory_line(state: TrainState) -> str:
    """One line with the bytes per device of parameters, optimizer and model state."""
    parts = {name: getattr(state, part) for part, name in PARTS.items()}
    sizes = {name: bytes_per_device(tree) for name, tree in parts.items() if tree is not None}
    described = ", ".join(f"{name} {_mib(size)}" for name, size in sizes.items())
    return f"{described} per device, before activations"


def compiler_options(remat: str, platform: str) -> dict[str, str]:
    """Options for `jax.jit` of a training step.

    By default, XLA on a CPU recomputes early what `remat` did not store, and keeps the results,
    which saves no memory. Its memory-optimized scheduler recomputes late.
    """
    if platform == "cpu" and remat != "none":
        return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    return {}


def explain_exhaustion(error: Exception, config: RunConfig, row_ways: int) -> UserError | None:
    """A `UserError` that says how to make a step fit, if a device has run out of memory.

    A TPU's compiler raises such errors, and other devices when they run the step.
    """
    of_jax = isinstance(error, jax.errors.JaxRuntimeError)
    if not of_jax or "RESOURCE_EXHAUSTED" not in str(error):
        return None
    return UserError(
        f"a step needs more memory than a device has ({first_line(error)}): "
        f"{how_to_fit(config, row_ways)}"
    )


def how_to_fit(config: RunConfig, row_ways: int) -> str:
    """What to change so that a step takes less memory, so that the run's folder accepts it.

    Args:
      config: configuration of the run.
      row_ways: in how many ways the rows of a batch are split.
    """
    train, model = config.train, config.model
    rows = train.batch_size // row_ways  # of a device
    same, others = [], []
    if rows > train.microbatches:
        same.append("a larger train.microbatches")
    if model.remat != "layer":
        same.append("BlockRecurrentTransformer.remat = 'layer'")
    axes = ["mesh.fsdp", "mesh.sequence"] if _splits_further(config) else ["mesh.fsdp"]
    same.append(f"{' or '.join(axes)} to more devices")
    if rows > 1:
        others.append(f"a smaller train.batch_size with train.lanes = {train.num_lanes}")
    if train.segment_length > model.window_length:
        others.append("a smaller train.segment_length")
    advice = f"set {' or '.join(same)}, and run the same command again to continue"
    if others:
        advice += f"; or set {' or '.join(others)}, and add --allow_changes"
    return advice


def _splits_further(config: RunConfig) -> bool:
    """Whether segments can be split over twice as many devices."""
    more = dataclasses.replace(config.mesh, sequence=2 * config.mesh.sequence)
    try:
        check_parts(more, config.train.segment_length, config.model)
    except UserError:
        return False
    return True


def step_memory_line(
    compiled: jax.stages.Compiled,
    device: jax.Device,
    config: RunConfig,
    row_ways: int,
    other_bytes: int = 0,
) -> str:
    """One line with the bytes that a step needs and those of the device, and a warning line.

    Args:
      compiled: the step.
      device: the device.
      config: configuration of the run, for the warning.
      row_ways: in how many ways the rows of a batch are split, likewise.
      other_bytes: bytes on the device of arrays that the step does not use.
    """
    needed, limit = step_memory(compiled) + other_bytes, memory_limit(device)
    line = f"memory {format_bytes(needed)} per device in a step, activations included"
    if limit is None:
        return line
    line += f", of {format_bytes(limit)}"
    if needed > limit:
        line += f"\nwarning: more than the device has: {how_to_fit(config, row_ways)}"
    return line


def step_memory(compiled: jax.stages.Compiled) -> int:
    """Bytes per device of a step: arguments, temporaries, and results not stored in arguments."""
    found = compiled.memory_analysis()
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + found.temp_size_in_bytes + results


def memory_limit(device: jax.Device) -> int | None:
    """Bytes of a device that JAX may use; for a CPU, its share of the machine. None: unknown."""
    stats = device.memory_stats() or {}
    if device.platform == "cpu":
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return machine // jax.local_device_count()
    return stats.get("bytes_limit")


def format_bytes(number: int) -> str:
    """Formats a number of bytes in MiB or GiB."""
    return f"{number / 2**30:,.2f} GiB" if number >= 2**30 else f"{number / 2**20:,.2f} MiB"


def _array_kinds(part: str, tree: PyTree) -> Iterator[tuple]:
    """Yields for each kind of array its bytes per device, and the other cells of its row."""
    kinds: dict[tuple, list] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = f"{part}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
        name = re.sub(r"(?<=/)[0-9]+(?=/)", "*", name)
        axes = [axis if isinstance(axis, tuple) else (axis,) for axis in leaf.sharding.spec]
        split = ", ".join("·".join(filter(None, axis)) or "-" for axis in axes) or "whole"
        kinds.setdefault((name, leaf.shape, str(leaf.dtype), split), []).append(leaf)
    for (name, shape, dtype, split), leaves in kinds.items():
        size = bytes_per_device(leaves)
        yield size, name, str(len(leaves)), " × ".join(map(str, shape)) or "-", dtype, split


def _mib(size: int) -> str:
    return f"{size / 2**20:,.2f} MiB" if size else "0"
