"""What lies where: a table of a run's arrays over the devices of its mesh."""

import re
from collections.abc import Iterator

import jax

from block_recurrent.parallel.sharding import bytes_per_device
from block_recurrent.training.train_step import TrainState

PARTS = {"params": "parameters", "optimizer": "optimizer", "model": "model state"}


def layout_table(state: TrainState) -> str:
    """A line for each kind of array, alike ones of all layers together; sums at the end.

    Kinds that take less than a thousandth of the memory share one line.

    Args:
      state: arrays, or shapes, with shardings.
    """
    rows = [("array", "number", "shape", "type", "split over", "on a device")]
    kinds = [kind for part in PARTS for kind in _kinds(part, getattr(state, part))]
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
    """Bytes on a device, in one line."""
    sizes = {name: bytes_per_device(getattr(state, part)) for part, name in PARTS.items()}
    described = ", ".join(f"{name} {_mib(size)}" for name, size in sizes.items())
    return f"{described} a device, before activations"


def _kinds(part: str, tree) -> Iterator[tuple]:
    """Bytes on a device, and the cells of the table but the last."""
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
