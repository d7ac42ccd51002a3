"""Where a kernel's programs find their operands, and how each platform starts them.

A grid is (head, block, row of the batch, tile), its last axis running first: neighbours share keys
and values, and a head's strip stays where it is for all of them.
"""

from collections.abc import Callable

from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as pltriton
from jaxtyping import Array, Float

from block_recurrent.kernels.band import Band, Operands


def launch(kernel: Callable, band: Band, *, order: tuple[str, ...] | None = None, **call):
    """`pl.pallas_call` for the band's platform.

    Args:
      kernel: takes the references.
      band: names the platform.
      order: a TPU's semantics of each axis of the grid; None: all parallel.
      **call: arguments of `pl.pallas_call`.
    """
    if band.platform == "tpu":
        order = order or ("parallel",) * len(call["grid"])
        parameters = pltpu.CompilerParams(dimension_semantics=order)
    else:
        # Of Pallas' two ways to a GPU the one for all of them: Mosaic GPU needs a Hopper. JAX 0.12
        # still has it, and announces that it will go; setup.py keeps JAX below 0.13.
        parameters = pltriton.CompilerParams(
            num_warps=band.tiles.warps, num_stages=band.tiles.stages
        )
    return pl.pallas_call(kernel, compiler_params=parameters, interpret=band.interpret, **call)


def operand_specs(operands: Operands, band: Band) -> Operands:
    """Blocks for a grid of (head, block, row, tile of queries)."""
    size = operands.queries.shape[-1]
    tiles = (band.strip_tiles, band.tiles.queries, band.tiles.keys)
    # Two neighbouring blocks, of which every block is in its turn the second and the first.
    # Mosaic wants all axes to be counted in elements, or none.
    pair = tuple(map(pl.Element, (2, 1, 1, band.window, size)))
    window = pl.BlockSpec(pair, lambda h, n, b, r: (n, b, h, 0, 0))
    return Operands(
        queries=row_spec(band, size),
        keys=window,
        values=window,
        keep=None if operands.keep is None else keep_spec(band),
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


def row_spec(band: Band, size: int) -> pl.BlockSpec:
    """A tile of queries, or of what has a row for each of them."""
    return pl.BlockSpec(
        (None, None, None, band.tiles.queries, size), lambda h, n, b, r: (n, b, h, r, 0)
    )


def keep_spec(band: Band) -> pl.BlockSpec:
    """All of `keep`, in the memory from which a TPU takes scalars."""
    return pl.BlockSpec(memory_space=pltpu.SMEM) if band.platform == "tpu" else pl.BlockSpec()


def keep_of(operands: Operands) -> Float[Array, ""] | None:
    """0 where the program's block begins a document, whose past is zeros; None: nowhere."""
    if operands.keep is None:
        return None
    return operands.keep[pl.program_id(1), pl.program_id(2)]
