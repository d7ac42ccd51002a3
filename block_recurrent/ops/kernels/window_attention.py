"""Attention by fused kernels, with its gradients, on one device or many."""

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

from block_recurrent.ops.kernels.backward import Rows, d_keys_values, d_queries
from block_recurrent.ops.kernels.band import (
    Band,
    Operands,
    Rectangle,
    Tiling,
    make_dropout,
    make_strip,
    pad_bias,
    spread_strip,
)
from block_recurrent.ops.kernels.forward import forward
from block_recurrent.ops.positions import rotate
from block_recurrent.types import KV


class Tilings(NamedTuple):
    """Band or rectangle, as each kernel cuts it.

    Attributes:
      forward: for the output.
      queries: for the gradients of the queries and of the bias.
      keys: for those of keys and values.
    """

    forward: Tiling
    queries: Tiling
    keys: Tiling


class Inputs(NamedTuple):
    """What the attention is computed from; M = W + T, `bias` by distance 1 … R.

    Under a rectangle keys and values are ``[N, B, V, H, K]``, and the rest None.
    """

    queries: Float[Array, "B T H K"]
    keys: Float[Array, "B M H K"]
    values: Float[Array, "B M H K"]
    keep: Float[Array, "N B"] | None
    bias: Float[Array, "H R"] | None
    dropout: Float[Array, "H W W2"] | None


# How arrays split over devices: by rows of the batch and by heads, which are independent. XLA
# cannot look into a kernel to see that, and would copy everything to every device.
AXES = {
    Band: Inputs("B T H K", "B M H K", "B M H K", "N B", "H R", "H W X"),
    Rectangle: Inputs("B T H K", "N B V H K", "N B V H K", None, None, None),
}


def window_attention(
    queries: Float[Array, "B T H K"],
    tokens: KV,
    carried: KV,
    starts: Bool[Array, "B N"] | None,
    bias: Float[Array, "H R"] | None,
    dropout: Float[Array, "H W W2"] | None,
    tilings: Tilings,
) -> Float[Array, "B T H K"]:
    """softmax(queries · keysᵀ + bias) · values over the W keys before each query.

    Neither the W × 2W weights nor the 2W keys of each block are ever written to memory: a block
    reads its own keys and those of the block before in place. Only the carried block is copied, in
    front of the others. Heads stay where the projections leave them, behind the length.

    Args:
      queries: times |scale|.
      tokens: keys and values of the segment, ``[B, T, H, K]``.
      carried: those of the block before it, ``[B, W, H, K]``.
      starts: where a block begins a document, and sees zeros before it.
      bias: by distance 1 … R, times |scale|, where that of R holds for all greater distances too.
        None: queries and keys are rotated (RoPE).
      dropout: multiplier of the weights, over the W queries and the 2W keys of each block.
      tilings: tiles and platform of the kernels (`choose_bands`).
    """
    carried = jax.tree.map(lambda before, own: before.astype(own.dtype), carried, tokens)
    if bias is None:
        window, length = carried.keys.shape[1], queries.shape[1]
        positions = np.arange(window + length)[:, None]
        queries = rotate(queries, positions[window:])
        tokens = tokens._replace(keys=rotate(tokens.keys, positions[window:]))
        carried = carried._replace(keys=rotate(carried.keys, positions[:window]))
    keep = None if starts is None else 1 - starts.T.astype(jnp.float32)
    return _attention(queries, tokens, carried, keep, bias, dropout, tilings)


def unmasked_attention(
    queries: Float[Array, "B T H K"], keys_values: KV, tilings: Tilings
) -> Float[Array, "B T H K"]:
    """softmax(queries · keysᵀ) · values, where every query of a block sees all the block's keys.

    Args:
      queries: of N blocks, times |scale|.
      keys_values: for each block, ``[N, B, V, H, K]``.
      tilings: tiles and platform of the kernels (`choose_rectangles`).
    """
    return _attention(queries, keys_values, None, None, None, None, tilings)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attention(queries, tokens, carried, keep, bias, dropout, tilings: Tilings):
    return _attention_forward(queries, tokens, carried, keep, bias, dropout, tilings)[0]


def _refuse_tangent(*_):
    raise NotImplementedError(
        "the fused attention kernels have first derivatives only, in reverse mode: for others set "
        "attention_kernel = 'xla'"
    )


# The identity, which cannot be differentiated in forward mode. A primitive, since partial
# evaluation drops the rules of `jax.custom_jvp`.
_without_tangent = jax.extend.core.Primitive("without_tangent")
_without_tangent.def_impl(lambda x: x)
_without_tangent.def_abstract_eval(lambda x: x)
mlir.register_lowering(_without_tangent, lambda _, x: [x])
ad.primitive_jvps[_without_tangent] = _refuse_tangent


def _attention_forward(queries, tokens, carried, keep, bias, dropout, tilings: Tilings):
    differentiable = queries, tokens, carried, bias
    queries, tokens, carried, bias = jax.tree.map(_without_tangent.bind, differentiable)

    def local(inputs):
        heads = inputs.queries.shape[2]
        out, log_sum = forward(_operands(inputs, tilings.forward), tilings.forward, heads)
        # Without its last axis, which a TPU would pad to 128 for as long as it is kept.
        return out.reshape(inputs.queries.shape), log_sum[..., 0]

    if carried is not None:
        tokens = jax.tree.map(lambda *blocks: jnp.concatenate(blocks, 1), carried, tokens)
    inputs, axes = Inputs(queries, *tokens, keep, bias, dropout), AXES[type(tilings.forward)]
    split = split_over_devices(local, (inputs,), (axes,), (axes.queries, "B H T"))
    out, log_sum = split(inputs)
    return out, (inputs, out, log_sum)


def _attention_backward(tilings: Tilings, saved, d_out):
    inputs, out, log_sum = saved
    strip_needed, banded = inputs.bias is not None, isinstance(tilings.keys, Band)

    def local(inputs, out, log_sum, d_out):
        delta = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), -1).swapaxes(1, 2)
        rows = Rows(_merged(d_out), log_sum[..., None], delta[..., None])
        reach = inputs.bias.shape[1] if strip_needed else 0
        queries, strip = d_queries(_operands(inputs, tilings.queries), rows, tilings.queries, reach)
        # Of the carried block apart: where nobody asks for its gradient, XLA leaves that out.
        operands, blocks = _operands(inputs, tilings.keys), d_out.shape[1] // tilings.keys.block
        tokens = d_keys_values(operands, rows, tilings.keys, range(banded, banded + blocks))
        carried = d_keys_values(operands, rows, tilings.keys, range(1)) if banded else ()
        shape = d_out.shape if banded else inputs.keys.shape
        gradients = (queries.reshape(d_out.shape), *(x.reshape(shape) for x in tokens))
        gradients += tuple(x.reshape(*x.shape[:2], *d_out.shape[2:]) for x in carried)
        if not strip_needed:
            return gradients
        _, to_bias = jax.vjp(
            lambda bias: spread_strip(pad_bias(bias, tilings.queries), tilings.queries), inputs.bias
        )
        far = tilings.queries.strip_tiles - strip.shape[1]
        return *gradients, *to_bias(jnp.pad(strip, ((0, 0), (far, 0), (0, 0), (0, 0))))

    operands, axes = (inputs, out, log_sum, d_out), AXES[type(tilings.keys)]
    results = (axes.queries, *(axes.queries if banded else axes.keys,) * 2)
    results += ("B W H K",) * 2 * banded + (axes.bias,) * strip_needed
    axes = (axes, axes.queries, "B H T", axes.queries)
    queries, *rest = split_over_devices(local, operands, axes, results)(*operands)
    tokens, carried = KV(*rest[:2]), KV(*rest[2:4]) if banded else None
    return queries, tokens, carried, None, rest[4] if strip_needed else None, None


_attention.defvjp(_attention_forward, _attention_backward)


def _operands(inputs: Inputs, tiling: Tiling) -> Operands:
    """What the kernels read: bias and dropout by tiles of the strip."""
    return Operands(
        *map(_merged, inputs[:3]),
        inputs.keep,
        strip=None if inputs.bias is None else make_strip(inputs.bias, tiling),
        dropout=None if inputs.dropout is None else make_dropout(inputs.dropout, tiling),
    )


def _merged(x: Float[Array, "*batch M H K"]) -> Float[Array, "batches M HK"]:
    """The same memory, of which a head is a range of columns."""
    return x.reshape(-1, x.shape[-3], x.shape[-2] * x.shape[-1])


def split_over_devices(
    function: Callable, operands: tuple, axes: tuple, results: tuple[str, ...]
) -> Callable:
    """Lets XLA run `function` on parts of the batch (axis B) and of the heads (axis H).

    A result without the axis B is a sum over the batch, and so over devices.

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
