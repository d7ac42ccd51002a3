"""Fused attention with its gradients, on one device or many."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.interpreters import ad, mlir
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from block_recurrent.ops.kernels.backward import PerQuery, d_keys_values, d_queries
from block_recurrent.ops.kernels.band import Band, Rectangle, Tiling
from block_recurrent.ops.kernels.forward import forward
from block_recurrent.ops.kernels.tile import (
    Operands,
    make_dropout,
    make_strip,
    pad_bias,
    spread_strip,
)
from block_recurrent.ops.normalize import inverse_length
from block_recurrent.ops.positions import rotate
from block_recurrent.types import KV


class Tilings(NamedTuple):
    """The tiling of each kernel: all bands, or all rectangles.

    Attributes:
      forward: of the kernel for the output.
      queries: of the kernels for the gradients of queries and bias.
      keys: of the kernel for the gradients of keys and values.
    """

    forward: Tiling
    queries: Tiling
    keys: Tiling


class Inputs(NamedTuple):
    """The inputs of the attention, with M = W + T and `bias` by distance 1 … R.

    Queries are given the length `scale`. Keys are unit vectors: those of the segment before
    normalization, times `inverse`. For a rectangle, keys and values are ``[N, B, V, H, K]``, and
    `inverse` and the fields behind it are None.
    """

    queries: Float[Array, "B T H K"]
    scale: Float[Array, "B H"]
    keys: Float[Array, "B M H K"]
    values: Float[Array, "B M H K"]
    inverse: Float[Array, "B H T"] | None
    keep: Float[Array, "N B"] | None
    bias: Float[Array, "H R"] | None
    dropout: Float[Array, "H W W2"] | None


# Arrays are split over devices by batch row and by head, which are independent. XLA cannot see that
# inside a kernel, and would gather all arrays on every device.
AXES = {
    Band: Inputs("B T H K", "B H", "B M H K", "B M H K", "B H T", "N B", "H R", "H W X"),
    Rectangle: Inputs("B T H K", "B H", "N B V H K", "N B V H K", None, None, None, None),
}


def window_attention(
    queries: Float[Array, "B T H K"],
    scale: Float[Array, " H"],
    tokens: KV,
    carried: KV,
    starts: Bool[Array, "B N"] | None,
    bias: Float[Array, "H R"] | None,
    dropout: Float[Array, "H W W2"] | None,
    tilings: Tilings,
) -> Float[Array, "B T H K"]:
    """softmax(scale · q · kᵀ + bias) · values over the W keys before each query.

    Here q and k are the queries and keys with unit length. The kernels read the queries before
    normalization, and give their products with the keys one factor per query. The keys, which many
    programs read, are normalized by the copy that puts them behind the carried block. The gradients
    of queries and keys are those before normalization.

    Neither the W × 2W weights nor the 2W keys of each block are written to memory: each block reads
    the keys of its own block and of the previous one in place. Only the carried block is copied, to
    precede the others. The axis of heads stays behind the length, as in the projections.

    Args:
      queries: of any length.
      scale: not negative.
      tokens: keys, of any length, and values of the segment, ``[B, T, H, K]``.
      carried: those of the block before it, ``[B, W, H, K]``. Its keys have unit length or are 0.
      starts: whether a block starts a document. Keys and values before it then count as zeros.
      bias: by distance 1 … R, times |scale|. The bias of R also applies to greater distances. None:
        queries and keys are rotated (RoPE).
      dropout: multipliers of the weights, over the W queries and 2W keys of each block.
      tilings: tiles and platform of the kernels, from `choose_bands`.
    """
    carried = jax.tree.map(lambda before, own: before.astype(own.dtype), carried, tokens)
    if bias is None:
        window, length = carried.keys.shape[1], queries.shape[1]
        positions = np.arange(window + length)[:, None]
        queries = rotate(queries, positions[window:])
        tokens = tokens._replace(keys=rotate(tokens.keys, positions[window:]))
        carried = carried._replace(keys=rotate(carried.keys, positions[:window]))
    keep = None if starts is None else 1 - starts.T.astype(jnp.float32)
    return _attention(
        queries, _per_row(scale, queries), tokens, carried, keep, bias, dropout, tilings
    )


def _per_row(scale: Float[Array, " H"], queries: Float[Array, "B T H K"]) -> Float[Array, "B H"]:
    return jnp.broadcast_to(scale.astype(jnp.float32), (len(queries), len(scale)))


def unmasked_attention(
    queries: Float[Array, "B T H K"], scale: Float[Array, " H"], keys_values: KV, tilings: Tilings
) -> Float[Array, "B T H K"]:
    """softmax(scale · q · keysᵀ) · values, where every query of a block sees all the block's keys.

    Args:
      queries: of N blocks, of any length; q is the query with unit length.
      scale: not negative.
      keys_values: for each block, ``[N, B, V, H, K]``. The keys have unit length.
      tilings: tiles and platform of the kernels (`choose_rectangles`).
    """
    scale = _per_row(scale, queries)
    return _attention(queries, scale, keys_values, None, None, None, None, tilings)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def _attention(queries, scale, tokens, carried, keep, bias, dropout, tilings: Tilings):
    return _attention_forward(queries, scale, tokens, carried, keep, bias, dropout, tilings)[0]


def _refuse_tangent(*_):
    raise NotImplementedError(
        "the fused attention kernels have only first derivatives in reverse mode: for other "
        "derivatives set attention_kernel = 'xla'"
    )


# An identity that raises an error when it is differentiated in forward mode. It must be a
# primitive, because partial evaluation drops the rules of `jax.custom_jvp`.
_without_tangent = jax.extend.core.Primitive("without_tangent")
_without_tangent.def_impl(lambda x: x)
_without_tangent.def_abstract_eval(lambda x: x)
mlir.register_lowering(_without_tangent, lambda _, x: [x])
ad.primitive_jvps[_without_tangent] = _refuse_tangent


def _attention_forward(queries, scale, tokens, carried, keep, bias, dropout, tilings: Tilings):
    differentiable = queries, scale, tokens, carried, bias
    queries, scale, tokens, carried, bias = jax.tree.map(_without_tangent.bind, differentiable)

    def local(inputs):
        operands, scale = _operands(inputs, tilings.forward), inputs.scale[..., None, None]
        out, *per_query = forward(operands, scale, tilings.forward)
        # The residuals are kept without their last axis, which a TPU would pad to 128.
        return out.reshape(inputs.queries.shape), *(x[..., 0] for x in per_query)

    inverse = None
    if carried is not None:
        inverse = inverse_length(tokens.keys)
        unit = (tokens.keys * inverse).astype(tokens.keys.dtype)
        inverse, tokens = inverse[..., 0].swapaxes(1, 2), tokens._replace(keys=unit)
        tokens = jax.tree.map(lambda *blocks: jnp.concatenate(blocks, 1), carried, tokens)
    inputs = Inputs(queries, scale, *tokens, inverse, keep, bias, dropout)
    axes = AXES[type(tilings.forward)]
    split = split_over_devices(local, (inputs,), (axes,), (axes.queries, "B H T", "B H T"))
    out, *per_query = split(inputs)
    return out, (inputs, out, *per_query)


def _attention_backward(tilings: Tilings, saved, d_out):
    inputs, out, log_sum, factor = saved
    strip_needed, banded = inputs.bias is not None, isinstance(tilings.keys, Band)

    def local(inputs, out, log_sum, factor, d_out):
        delta = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), -1).swapaxes(1, 2)
        numbers = (x[..., None] for x in (log_sum, delta, factor))
        per_query = PerQuery(_flatten_heads(d_out), *numbers)
        reach = inputs.bias.shape[1] if strip_needed else 0
        queries, d_lengths, strip = d_queries(
            _operands(inputs, tilings.queries), per_query, tilings.queries, reach
        )
        # A separate kernel for the carried block: XLA removes it if its gradient is not used.
        operands, blocks = _operands(inputs, tilings.keys), d_out.shape[1] // tilings.keys.block
        inverse = inputs.inverse[..., None] if banded else None
        own = range(banded, banded + blocks)
        tokens = d_keys_values(operands, per_query, inverse, tilings.keys, own)
        carried = d_keys_values(operands, per_query, None, tilings.keys, range(1)) if banded else ()
        shape = d_out.shape if banded else inputs.keys.shape
        gradients = (queries.reshape(d_out.shape), d_lengths.sum(axis=(2, 3)))
        gradients += tuple(x.reshape(shape) for x in tokens)
        gradients += tuple(x.reshape(*x.shape[:2], *d_out.shape[2:]) for x in carried)
        if not strip_needed:
            return gradients
        _, to_bias = jax.vjp(
            lambda bias: spread_strip(pad_bias(bias, tilings.queries), tilings.queries), inputs.bias
        )
        far = tilings.queries.num_strip_tiles - strip.shape[1]
        return *gradients, *to_bias(jnp.pad(strip, ((0, 0), (far, 0), (0, 0), (0, 0))))

    axes = AXES[type(tilings.keys)]
    results = (axes.queries, axes.scale, *(axes.queries if banded else axes.keys,) * 2)
    results += ("B W H K",) * 2 * banded + (axes.bias,) * strip_needed
    axes = (axes, axes.queries, "B H T", "B H T", axes.queries)
    operands = *saved, d_out
    queries, scale, *rest = split_over_devices(local, operands, axes, results)(*operands)
    tokens, carried = KV(*rest[:2]), KV(*rest[2:4]) if banded else None
    return queries, scale, tokens, carried, None, rest[4] if strip_needed else None, None


_attention.defvjp(_attention_forward, _attention_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attention_by_head(
    queries: Float[Array, "B H Q K"], scale: Float[Array, " H"], keys_values: KV, tilings: Tilings
) -> Float[Array, "B H Q K"]:
    """`unmasked_attention` of a single block, for arrays whose heads come before the length.

    Heads are independent: as rows of the batch, of one head each, they need no transposition. The
    gradient keeps the arrays as they are given. So a scan need not store those that it reads or
    returns anyway once more, in another shape.

    Args:
      queries: of any length.
      scale: as of `unmasked_attention`.
      keys_values: ``[B, H, V, K]``.
      tilings: as of `unmasked_attention`.
    """
    return _by_head_forward(queries, scale, keys_values, tilings)[0]


def _by_head_forward(queries, scale, keys_values, tilings: Tilings):
    inputs = _head_rows(queries, scale, keys_values)
    out, (_, _, *per_query) = _attention_forward(
        inputs.queries, inputs.scale, KV(inputs.keys, inputs.values), *(None,) * 4, tilings
    )
    out = out.reshape(queries.shape)
    return out, (queries, scale, keys_values, out, *per_query)


def _by_head_backward(tilings: Tilings, saved, d_out):
    *inputs, out, log_sum, factor = saved
    queries, scale, keys_values = inputs
    rows = -1, out.shape[2], 1, out.shape[3]
    saved = _head_rows(*inputs), out.reshape(rows), log_sum, factor
    d_queries, d_scale, d_tokens, *_ = _attention_backward(tilings, saved, d_out.reshape(rows))
    d_tokens = jax.tree.map(lambda d, x: d.reshape(x.shape), d_tokens, keys_values)
    d_scale = d_scale.reshape(-1, len(scale)).sum(axis=0)
    return d_queries.reshape(queries.shape), d_scale.astype(scale.dtype), d_tokens


attention_by_head.defvjp(_by_head_forward, _by_head_backward)


def _head_rows(queries, scale, keys_values) -> Inputs:
    scale = jnp.broadcast_to(scale.astype(jnp.float32), queries.shape[:2]).reshape(-1, 1)
    queries, keys, values = (
        x.reshape(-1, x.shape[2], 1, x.shape[3]) for x in (queries, *keys_values)
    )
    return Inputs(queries, scale, keys[None], values[None], *(None,) * 4)


def _operands(inputs: Inputs, tiling: Tiling) -> Operands:
    """Converts the inputs to what the kernels read."""
    return Operands(
        *map(_flatten_heads, (inputs.queries, inputs.keys, inputs.values)),
        inputs.keep,
        strip=None if inputs.bias is None else make_strip(inputs.bias, tiling),
        dropout=None if inputs.dropout is None else make_dropout(inputs.dropout, tiling),
    )


def _flatten_heads(x: Float[Array, "*batch M H K"]) -> Float[Array, "batches M HK"]:
    """Reshapes to three axes, without moving data. A head becomes a range of columns."""
    return x.reshape(-1, x.shape[-3], x.shape[-2] * x.shape[-1])


def split_over_devices(
    function: Callable, operands: tuple, axes: tuple, results: tuple[str, ...]
) -> Callable:
    """Lets XLA split `function` over devices, along the batch (axis B) and the heads (axis H).

    A result without the axis B is a sum over the batch. Its parts are summed over devices.

    Args:
      function: takes the operands; returns a tuple with one array for each of `results`.
      operands: arrays, in nested tuples as `function` takes them; the first has both axes.
      axes: the names of each operand's axes, in the same nested tuples.
      results: the names of each result's axes.
    """
    present_axes = jax.tree.map(
        lambda x, names: None if x is None else names, operands, axes, is_leaf=lambda x: x is None
    )
    axis_names = jax.tree.leaves(present_axes)

    def partition(mesh, arguments, _):
        first = jax.tree.leaves(arguments)[0].sharding.spec
        mesh_axis = {axis: first[axis_names[0].split().index(axis)] for axis in "BH"}

        def sharding(names):
            return NamedSharding(mesh, PartitionSpec(*map(mesh_axis.get, names.split())))

        def local(*arguments):
            parts = function(*arguments)
            return tuple(
                part if "B" in names or not mesh_axis["B"] else jax.lax.psum(part, mesh_axis["B"])
                for part, names in zip(parts, results, strict=True)
            )

        return mesh, local, tuple(map(sharding, results)), jax.tree.map(sharding, present_axes)

    # Axes that are not split, in the order in which they first appear.
    unsplit = dict.fromkeys(" ".join((*axis_names, *results)).lower().split())
    del unsplit["b"], unsplit["h"]
    split = custom_partitioning(function)
    split.def_partition(
        partition,
        sharding_rule=f"{', '.join(axis_names)} -> {', '.join(results)}".lower(),
        need_replication_factors=tuple(unsplit),
    )
    return split
