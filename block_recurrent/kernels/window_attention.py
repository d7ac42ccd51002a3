"""Sliding-window attention by fused kernels, with its gradients, on one device or many."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from block_recurrent.kernels.backward import Rows, d_keys_values, d_queries
from block_recurrent.kernels.band import (
    Band,
    Operands,
    make_dropout,
    make_strip,
    pad_bias,
    spread_strip,
)
from block_recurrent.kernels.forward import forward
from block_recurrent.positions import rotate
from block_recurrent.types import KeysValues


class Bands(NamedTuple):
    """The band as each kernel cuts it.

    Attributes:
      forward: for the output.
      queries: for the gradients of the queries and of the bias.
      keys: for those of keys and values.
    """

    forward: Band
    queries: Band
    keys: Band


class Inputs(NamedTuple):
    """What the attention is computed from; M = W + T, `bias` by distance 1 … R."""

    queries: Float[Array, "B T H K"]
    keys: Float[Array, "B M H K"]
    values: Float[Array, "B M H K"]
    keep: Float[Array, "N B"] | None
    bias: Float[Array, "H R"] | None
    dropout: Float[Array, "H W W2"] | None


# How arrays split over devices: by rows of the batch and by heads, which know nothing of each
# other. XLA cannot see that into a kernel, and would copy everything to every device.
AXES = Inputs("B T H K", "B M H K", "B M H K", "N B", "H R", "H W X")


def window_attention(
    queries: Float[Array, "B T H K"],
    tokens: KeysValues,
    carried: KeysValues,
    starts: Bool[Array, "B N"] | None,
    bias: Float[Array, "H R"] | None,
    dropout: Float[Array, "H W W2"] | None,
    bands: Bands,
) -> Float[Array, "B T H K"]:
    """softmax(queries · keysᵀ + bias) · values over the W keys before each query.

    Neither the W × 2W weights nor the 2W keys of each block are ever in memory: a block reads its
    own keys and those of the block before from where they are. Only the carried block is put in
    front of them. Heads stay where the projections leave them, behind the length.

    Args:
      queries: times |scale|.
      tokens: keys and values of the segment, ``[B, T, H, K]``.
      carried: those of the block before it, ``[B, W, H, K]``.
      starts: where a block begins a document, and sees zeros before it.
      bias: by distance 1 … R, times |scale|, where that of R holds for all greater distances too.
        None: queries and keys are rotated (RoPE).
      dropout: multiplier of the weights, over the W queries and the 2W keys of each block.
      bands: tiles and platform of the kernels (`choose_bands`).
    """
    carried = jax.tree.map(lambda before, own: before.astype(own.dtype), carried, tokens)
    if bias is None:
        window, length = carried.keys.shape[1], queries.shape[1]
        positions = np.arange(window + length)[:, None]
        queries = rotate(queries, positions[window:])
        tokens = tokens._replace(keys=rotate(tokens.keys, positions[window:]))
        carried = carried._replace(keys=rotate(carried.keys, positions[:window]))
    keep = None if starts is None else 1 - starts.T.astype(jnp.float32)
    return _attention(queries, tokens, carried, keep, bias, dropout, bands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attention(queries, tokens, carried, keep, bias, dropout, bands: Bands):
    return _attention_forward(queries, tokens, carried, keep, bias, dropout, bands)[0]


def _attention_forward(queries, tokens, carried, keep, bias, dropout, bands: Bands):
    def local(inputs):
        heads = inputs.queries.shape[2]
        out, log_sum = forward(_operands(inputs, bands.forward), bands.forward, heads)
        # Without its last axis, which a TPU would pad to 128 for as long as it is kept.
        return out.reshape(inputs.queries.shape), log_sum[..., 0]

    keys_values = jax.tree.map(lambda *blocks: jnp.concatenate(blocks, 1), carried, tokens)
    inputs = Inputs(queries, *keys_values, keep, bias, dropout)
    split = split_over_devices(local, (inputs,), (AXES,), (AXES.queries, "B H T"))
    out, log_sum = split(inputs)
    return out, (inputs, out, log_sum)


def _attention_backward(bands: Bands, saved, d_out):
    inputs, out, log_sum = saved
    strip_needed = inputs.bias is not None

    def local(inputs, out, log_sum, d_out):
        delta = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), -1).swapaxes(1, 2)
        rows = Rows(_merged(d_out), log_sum[..., None], delta[..., None])
        reach = inputs.bias.shape[1] if strip_needed else 0
        queries, strip = d_queries(_operands(inputs, bands.queries), rows, bands.queries, reach)
        # Of the carried block apart: where nobody asks for its gradient, XLA leaves that out.
        operands, blocks = _operands(inputs, bands.keys), d_out.shape[1] // bands.keys.window
        tokens = d_keys_values(operands, rows, bands.keys, range(1, blocks + 1))
        carried = d_keys_values(operands, rows, bands.keys, range(1))
        heads, size = d_out.shape[2:]
        gradients = tuple(
            x.reshape(*x.shape[:2], heads, size) for x in (queries, *tokens, *carried)
        )
        if not strip_needed:
            return gradients
        _, to_bias = jax.vjp(
            lambda bias: spread_strip(pad_bias(bias, bands.queries), bands.queries), inputs.bias
        )
        far = bands.queries.strip_tiles - strip.shape[1]
        return *gradients, *to_bias(jnp.pad(strip, ((0, 0), (far, 0), (0, 0), (0, 0))))

    operands = (inputs, out, log_sum, d_out)
    axes = (AXES, AXES.queries, "B H T", AXES.queries)
    results = (AXES.queries,) * 3 + ("B W H K",) * 2 + (AXES.bias,) * strip_needed
    queries, *keys_values = split_over_devices(local, operands, axes, results)(*operands)
    tokens, carried = KeysValues(*keys_values[:2]), KeysValues(*keys_values[2:4])
    return queries, tokens, carried, None, keys_values[4] if strip_needed else None, None


_attention.defvjp(_attention_forward, _attention_backward)


def _operands(inputs: Inputs, band: Band) -> Operands:
    """What the kernels read: bias and dropout by tiles of the strip."""
    return Operands(
        *map(_merged, inputs[:3]),
        inputs.keep,
        strip=None if inputs.bias is None else make_strip(inputs.bias, band),
        dropout=None if inputs.dropout is None else make_dropout(inputs.dropout, band),
    )


def _merged(x: Float[Array, "B T H K"]) -> Float[Array, "B T HK"]:
    """The same memory, of which a head is a range of columns."""
    return x.reshape(*x.shape[:2], -1)


def split_over_devices(
    function: Callable, operands: tuple, axes: tuple, results: tuple[str, ...]
) -> Callable:
    """`function`, which XLA may run on parts of the batch (axis B) and of the heads (axis H).

    A result without the axis B is a sum over the batch, so over devices too.

    Args:
      function: of the operands; returns one array for each of `results`.
      operands: arrays, in tuples as `function` takes them; the first has both axes.
      axes: names of each operand's axes, in the same tuples.
      results: names of each result's axes.
    """
    present = jax.tree.map(
        lambda x, names: None if x is None else names, operands, axes, is_leaf=lambda x: x is None
    )
    letters = jax.tree.leaves(present)

    def partition(mesh, arguments, _):
        first = jax.tree.leaves(arguments)[0].sharding.spec
        place = {axis: first[letters[0].split().index(axis)] for axis in "BH"}

        def sharding(names):
            return NamedSharding(mesh, PartitionSpec(*map(place.get, names.split())))

        def local(*arguments):
            parts = function(*arguments)
            return tuple(
                part if "B" in names or not place["B"] else jax.lax.psum(part, place["B"])
                for part, names in zip(parts, results, strict=True)
            )

        return mesh, local, tuple(map(sharding, results)), jax.tree.map(sharding, present)

    # In the order of appearance.
    whole = dict.fromkeys(" ".join((*letters, *results)).lower().split())
    del whole["b"], whole["h"]
    split = custom_partitioning(function)
    split.def_partition(
        partition,
        sharding_rule=f"{', '.join(letters)} -> {', '.join(results)}".lower(),
        need_replication_factors=tuple(whole),
    )
    return split
