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
    """What the attention is computed from; `bias` by distance 1 … R."""

    queries: Float[Array, "N B H W K"]
    keys: Float[Array, "M B H W K"]
    values: Float[Array, "M B H W K"]
    keep: Float[Array, "N B"] | None
    bias: Float[Array, "H R"] | None
    dropout: Float[Array, "H W W2"] | None


# How arrays split over devices: by rows of the batch and by heads, which know nothing of each
# other. XLA cannot see that into a kernel, and would copy everything to every device.
AXES = Inputs("N B H W K", "M B H W K", "M B H W K", "N B", "H R", "H W X")


def window_attention(
    queries: Float[Array, "N B H W K"],
    tokens: KeysValues,
    carried: KeysValues,
    starts: Bool[Array, "B N"] | None,
    bias: Float[Array, "H R"] | None,
    dropout: Float[Array, "H W W2"] | None,
    bands: Bands,
) -> Float[Array, "N B H W K"]:
    """softmax(queries · keysᵀ + bias) · values over the W keys before each query.

    Neither the W × 2W weights nor the 2W keys of each block are ever in memory: a block reads its
    own keys and those of the block before from where they are. Only the carried block is put in
    front of them.

    Args:
      queries: times |scale|.
      tokens: keys and values of the blocks.
      carried: those of the block before the first, ``[B, H, W, K]``.
      starts: where a block begins a document, and sees zeros before it.
      bias: by distance 1 … R, times |scale|, where that of R holds for all greater distances too.
        None: queries and keys are rotated (RoPE).
      dropout: multiplier of the weights, over the W queries and the 2W keys of each block.
      bands: tiles and platform of the kernels (`choose_bands`).
    """
    keys, values = (
        jnp.concatenate([before[None].astype(own.dtype), own])
        for before, own in zip(carried, tokens, strict=True)
    )
    if bias is None:
        window = queries.shape[-2]
        positions = np.arange(len(keys) * window).reshape(-1, 1, 1, window)
        queries, keys = rotate(queries, positions[1:]), rotate(keys, positions)
    keep = None if starts is None else 1 - starts.T.astype(jnp.float32)
    return _attention(Inputs(queries, keys, values, keep, bias, dropout), bands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attention(inputs: Inputs, bands: Bands):
    return _attention_forward(inputs, bands)[0]


def _attention_forward(inputs: Inputs, bands: Bands):
    def local(inputs):
        out, log_sum = forward(_operands(inputs, bands.forward), bands.forward)
        # Without its last axis, which a TPU would pad to 128 for as long as it is kept.
        return out, log_sum[..., 0]

    split = split_over_devices(local, (inputs,), (AXES,), ("N B H W K", "N B H W"))
    out, log_sum = split(inputs)
    return out, (inputs, out, log_sum)


def _attention_backward(bands: Bands, saved, d_out):
    inputs, out, log_sum = saved
    strip_needed = inputs.bias is not None

    def local(inputs, out, log_sum, d_out):
        delta = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), -1, keepdims=True)
        rows = Rows(d_out, log_sum[..., None], delta)
        reach = inputs.bias.shape[1] if strip_needed else 0
        queries, strip = d_queries(_operands(inputs, bands.queries), rows, bands.queries, reach)
        keys_values = d_keys_values(_operands(inputs, bands.keys), rows, bands.keys)
        gradients = (queries, *keys_values)
        if not strip_needed:
            return gradients
        _, to_bias = jax.vjp(
            lambda bias: spread_strip(pad_bias(bias, bands.queries), bands.queries), inputs.bias
        )
        far = bands.queries.strip_tiles - strip.shape[1]
        return *gradients, *to_bias(jnp.pad(strip, ((0, 0), (far, 0), (0, 0), (0, 0))))

    operands = (inputs, out, log_sum, d_out)
    axes = (AXES, AXES.queries, "N B H W", AXES.queries)
    results = (AXES.queries, AXES.keys, AXES.values, AXES.bias)[: 3 + strip_needed]
    queries, keys, values, *bias = split_over_devices(local, operands, axes, results)(*operands)
    return (Inputs(queries, keys, values, None, *(bias or [None]), None),)


_attention.defvjp(_attention_forward, _attention_backward)


def _operands(inputs: Inputs, band: Band) -> Operands:
    """What the kernels read: bias and dropout by tiles of the strip."""
    return Operands(
        *inputs[:4],
        strip=None if inputs.bias is None else make_strip(inputs.bias, band),
        dropout=None if inputs.dropout is None else make_dropout(inputs.dropout, band),
    )


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
        place = {"B": first[1], "H": first[2]}

        def sharding(names):
            return NamedSharding(mesh, PartitionSpec(*map(place.get, names.split())))

        def local(*arguments):
            parts = function(*arguments)
            return tuple(
                part if "B" in names or not place["B"] else jax.lax.psum(part, place["B"])
                for part, names in zip(parts, results, strict=True)
            )

        return mesh, local, tuple(map(sharding, results)), jax.tree.map(sharding, present)

    whole = dict.fromkeys(" ".join(letters).lower().split())  # in the order of appearance
    del whole["b"], whole["h"]
    split = custom_partitioning(function)
    split.def_partition(
        partition,
        sharding_rule=f"{', '.join(letters)} -> {', '.join(results)}".lower(),
        need_replication_factors=tuple(whole),
    )
    return split
