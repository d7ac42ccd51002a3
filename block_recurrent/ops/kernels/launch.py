"""Starts the kernels on each platform, and block specs: the part of an array that a program reads.

A grid is (head, block, batch row, tile). Its last axis varies fastest, so that consecutive programs
share keys and values, and all programs of a head share its strip. On a GPU the first axis varies
fastest, so there `launch` reverses the axes.
"""

from collections.abc import Callable

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as pltriton
from jaxtyping import Array

from block_recurrent.ops.kernels.band import Tiling
from block_recurrent.ops.kernels.tile import Operands


def launch(kernel: Callable, tiling: Tiling, *, order: tuple[str, ...] | None = None, **call):
    """`pl.pallas_call` for the tiling's platform.

    Args:
      kernel: the function that takes the references.
      tiling: names the platform, and the warps and stages of a GPU.
      order: `dimension_semantics` of a TPU, one per axis of the grid; None: all 'parallel'.
      **call: other arguments of `pl.pallas_call`.
    """
    if tiling.platform == "tpu":
        order = order or ("parallel",) * len(call["grid"])
        parameters = pltpu.CompilerParams(dimension_semantics=order)
    else:
        specs = {
            name: jax.tree.map(_reverse_grid, call[name]) for name in ("in_specs", "out_specs")
        }
        call |= specs | {"grid": call["grid"][::-1]}
        # Pallas' Triton backend runs on all supported GPUs; Mosaic GPU needs a Hopper. JAX 0.12
        # announces that the Triton backend will be removed; pyproject.toml keeps JAX below 0.13.
        parameters = pltriton.CompilerParams(
            num_warps=tiling.tiles.warps, num_stages=tiling.tiles.stages
        )
    return pl.pallas_call(kernel, compiler_params=parameters, interpret=tiling.interpret, **call)


def _reverse_grid(spec: pl.BlockSpec) -> pl.BlockSpec:
    """The same block spec for a grid whose axes are reversed."""
    if spec.index_map is None:
        return spec
    return pl.BlockSpec(spec.block_shape, lambda *indices: spec.index_map(*indices[::-1]))


def program_ids(axes: int, tiling: Tiling) -> list[Array]:
    """Index of this program along each axis of the grid, in the order that `launch` was given."""
    ids = [pl.program_id(axis) for axis in range(axes)]
    return ids if tiling.platform == "tpu" else ids[::-1]


def operand_specs(operands: Operands, tiling: Tiling, size: int) -> Operands:
    """Block specs for a grid of (head, block, batch row, tile of queries)."""
    tiles = (tiling.num_strip_tiles, tiling.tiles.queries, tiling.tiles.keys)
    seen = tiling.visible_keys_spec(size, len(operands.queries))
    return Operands(
        queries=query_tile_spec(tiling, size),
        keys=seen,
        values=seen,
        keep=None if operands.keep is None else keep_flags_spec(tiling),
        strip=head_spec(operands.strip),
        dropout=None
        if operands.dropout is None
        else pl.BlockSpec((None, None, *tiles), lambda h, n, b, r: (h, r, 0, 0, 0)),
    )


def head_spec(array: Array | None) -> pl.BlockSpec | None:
    """The whole part of one head, for any grid whose first axis is the head."""
    if array is None:
        return None
    return pl.BlockSpec((None, *array.shape[1:]), lambda h, *_: (h,) + (0,) * (array.ndim - 1))


def query_tile_spec(tiling: Tiling, size: int) -> pl.BlockSpec:
    """A tile of queries, or of another array with the same layout, ``[B, T, H·K]``."""
    return pl.BlockSpec(
        (None, tiling.tiles.queries, size),
        lambda h, n, b, r: (b, n * tiling.num_query_tiles + r, h),
    )


def per_query_spec(tiling: Tiling) -> pl.BlockSpec:
    """One number for each query of a tile, from ``[B, H, T, 1]``."""
    return pl.BlockSpec(
        (None, None, tiling.tiles.queries, 1),
        lambda h, n, b, r: (b, h, n * tiling.num_query_tiles + r, 0),
    )


def keep_flags_spec(tiling: Tiling) -> pl.BlockSpec:
    """All of `keep`; on a TPU in SMEM, the memory for scalars."""
    return pl.BlockSpec(memory_space=pltpu.SMEM) if tiling.platform == "tpu" else pl.BlockSpec()
