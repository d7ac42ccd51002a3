"""Where a kernel's programs find their operands, and how each platform starts them.

A grid is (head, block, row of the batch, tile), its last axis running first: neighbours share keys
and values, and a head's strip stays where it is for all of them. A GPU counts programs along the
first axis first, and is given the axes in reverse.
"""

from collections.abc import Callable

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as pltriton
from jaxtyping import Array, Float

from block_recurrent.ops.kernels.band import Operands, Tiling


def launch(kernel: Callable, tiling: Tiling, *, order: tuple[str, ...] | None = None, **call):
    """`pl.pallas_call` for the tiling's platform.

    Args:
      kernel: takes the references.
      tiling: names the platform.
      order: a TPU's semantics of each axis of the grid; None: all parallel.
      **call: arguments of `pl.pallas_call`.
    """
    if tiling.platform == "tpu":
        order = order or ("parallel",) * len(call["grid"])
        parameters = pltpu.CompilerParams(dimension_semantics=order)
    else:
        specs = {name: jax.tree.map(_reversed, call[name]) for name in ("in_specs", "out_specs")}
        call |= specs | {"grid": call["grid"][::-1]}
        # Of Pallas' two ways to a GPU the one for all of them: Mosaic GPU needs a Hopper. JAX 0.12
        # still has it, and announces that it will go; pyproject.toml keeps JAX below 0.13.
        parameters = pltriton.CompilerParams(
            num_warps=tiling.tiles.warps, num_stages=tiling.tiles.stages
        )
    return pl.pallas_call(kernel, compiler_params=parameters, interpret=tiling.interpret, **call)


def _reversed(spec: pl.BlockSpec) -> pl.BlockSpec:
    """The same blocks, from the indices of a reversed grid."""
    if spec.index_map is None:
        return spec
    return pl.BlockSpec(spec.block_shape, lambda *indices: spec.index_map(*indices[::-1]))


def program_ids(axes: int, tiling: Tiling) -> list[Array]:
    """Which program this is, along each axis of the grid as `launch` was given it."""
    ids = [pl.program_id(axis) for axis in range(axes)]
    return ids if tiling.platform == "tpu" else ids[::-1]


def operand_specs(operands: Operands, tiling: Tiling, size: int) -> Operands:
    """Blocks for a grid of (head, block, row, tile of queries)."""
    tiles = (tiling.strip_tiles, tiling.tiles.queries, tiling.tiles.keys)
    seen = tiling.seen_spec(size, len(operands.queries))
    return Operands(
        queries=row_spec(tiling, size),
        keys=seen,
        values=seen,
        keep=None if operands.keep is None else keep_spec(tiling),
        strip=of_head(operands.strip),
        dropout=None
        if operands.dropout is None
        else pl.BlockSpec((None, None, *tiles), lambda h, n, b, r: (h, r, 0, 0, 0)),
    )


def of_head(array: Array | None) -> pl.BlockSpec | None:
    """All of a head's part, for any grid whose first axis is the head."""
    if array is None:
        return None
    return pl.BlockSpec((None, *array.shape[1:]), lambda h, *_: (h,) + (0,) * (array.ndim - 1))


def row_spec(tiling: Tiling, size: int) -> pl.BlockSpec:
    """A tile of queries, or of what is laid out like them, ``[B, T, H·K]``."""
    return pl.BlockSpec(
        (None, tiling.tiles.queries, size), lambda h, n, b, r: (b, n * tiling.query_tiles + r, h)
    )


def sum_spec(tiling: Tiling) -> pl.BlockSpec:
    """A number a query of a tile, of ``[B, H, T, 1]``."""
    return pl.BlockSpec(
        (None, None, tiling.tiles.queries, 1),
        lambda h, n, b, r: (b, h, n * tiling.query_tiles + r, 0),
    )


def keep_spec(tiling: Tiling) -> pl.BlockSpec:
    """All of `keep`, in the memory from which a TPU takes scalars."""
    return pl.BlockSpec(memory_space=pltpu.SMEM) if tiling.platform == "tpu" else pl.BlockSpec()


def keep_of(operands: Operands, block, row) -> Float[Array, ""] | None:
    """0 where the block begins a document, whose past is zeros; None: nowhere."""
    return None if operands.keep is None else operands.keep[block, row]
