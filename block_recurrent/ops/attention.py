"""Attention of tokens and states, by XLA or by fused kernels.

Inputs and outputs have the heads before the length, ``[…, H, M, K]``. The fused kernels
(`ops.kernels`) use the layout of the projections instead, ``[B, T, H·K]``. So the fused functions
here transpose back, and XLA cancels these transpositions with those of the caller.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from block_recurrent.errors import UserError
from block_recurrent.ops.blocks import (
    from_blocks_of_heads,
    to_blocks_of_heads,
    with_previous_block,
)
from block_recurrent.ops.dot_product import attend, attend_with_remat
from block_recurrent.ops.normalize import scaled_l2_normalize
from block_recurrent.ops.positions import HIDDEN, by_relative_position, rotate
from block_recurrent.types import KV


def window_attention(
    queries: Float[Array, "N B H W K"],
    tokens: KV,
    carried: KV,
    starts: Bool[Array, "B N"] | None,
    bias: Float[Array, "H R"] | None,
    dropout: Float[Array, "H W 2*W"] | None = None,
    *,
    scale: Float[Array, " H"] | None = None,
    remat: bool = False,
) -> Float[Array, "N B H W K"]:
    """Attention of every token to the W tokens before it, in all blocks at once.

    XLA computes it from normalized queries and keys. The fused kernels, which are used if there is
    a `scale`, normalize the queries and the keys of the segment themselves.

    Args:
      queries: unit vectors times the scale of the logits; for the fused kernels, of any length.
      tokens: keys and values of the blocks, ``[N, B, H, W, K]``. The keys have unit length; for the
        fused kernels, any.
      carried: keys and values of the block before the first, ``[B, H, W, K]``.
      starts: whether a block starts a document. Keys and values before it then count as zeros.
      bias: position bias by distance 1 … R ≤ W, multiplied by the scale. The bias of R also applies
        to greater distances. None: queries and keys are rotated instead (RoPE).
      dropout: multipliers of the weights of a block's queries over its 2W keys.
      scale: scale of the logits, not negative; None: XLA.
      remat: recompute the weights in the backward pass. The fused kernels always do.
    """
    if scale is not None:
        return _fused_window_attention(queries, scale, tokens, carried, starts, bias, dropout)
    window = queries.shape[3]
    keys, values = (
        with_previous_block(own, before, starts)
        for own, before in zip(tokens, carried, strict=True)
    )
    if bias is None:
        positions = np.arange(2 * window)
        queries, keys = rotate(queries, positions[window:]), rotate(keys, positions)
        bias = jnp.zeros((queries.shape[2], window))
    return _xla_attention(remat)(
        queries, keys, values, causal_band(bias, window, 2 * window, window), dropout
    )


def unmasked_attention(
    queries: Float[Array, "*blocks B H Q K"],
    keys: Float[Array, "*blocks B H V K"],
    values: Float[Array, "*blocks B H V K"],
    *,
    scale: Float[Array, " H"] | None = None,
    remat: bool = False,
) -> Float[Array, "*blocks B H Q K"]:
    """Attention of every query to all keys, separately for each block.

    Args:
      queries: as in `window_attention`.
      keys: unit vectors, compared with the queries.
      values: averaged with the attention weights.
      scale: as in `window_attention`. XLA is used for sizes that the fused kernels do not support.
      remat: recompute the weights in the backward pass; see `window_attention`.
    """
    if scale is not None:
        lengths = {"queries": queries.shape[-2], "keys": keys.shape[-2]}
        if _unmet_requirement(lengths, queries.shape[-1]) is None:
            return _fused_unmasked_attention(queries, scale, keys, values)
        queries = scaled_l2_normalize(queries.swapaxes(-3, -2), scale).swapaxes(-3, -2)
    return _xla_attention(remat)(queries, keys, values)


def causal_band(
    bias: Float[Array, "H R"], num_queries: int, num_keys: int, reach: int
) -> Float[Array, "H Q V"]:
    """Bias and mask of causal attention: each query sees the `reach` keys before its own position.

    The queries are at the last Q of the V positions. The logits of all other keys get HIDDEN.

    Args:
      bias: by distance 1 … R ≤ reach. The bias of R also applies to greater distances.
      num_queries: Q.
      num_keys: V.
      reach: the greatest distance that a query sees.
    """
    bias = jnp.pad(bias, ((0, 0), (0, reach - bias.shape[1])), mode="edge")[:, ::-1]
    places = ((0, 0), (num_keys - 1 - reach, num_queries))
    bias = jnp.pad(bias, places, constant_values=HIDDEN)
    return by_relative_position(bias, num_queries, num_keys)


def choose_kernel(
    wanted: str,
    lengths: dict[str, int],
    head_size: int,
    dtype: str,
    platform: str | None = None,
    capability: str | None = None,
    num_devices: int | None = None,
) -> str:
    """Resolves 'auto': 'pallas' in bfloat16 on a GPU that supports these sizes, else 'xla'.

    The choice is made once, when a module is created, for the default backend.
    `jax.lax.platform_dependent` would choose later. But when it is differentiated, it stores the
    residuals of both branches, so the fused kernels would store the weights that they avoid.

    Args:
      wanted: `ModelConfig.attention_kernel`.
      lengths: numbers of queries and keys by option name, for messages: window_length, num_states.
      head_size: K.
      dtype: of the computation.
      platform: as named by `jax.default_backend()`, which is the default.
      capability: compute capability of the GPU; None: that of the first device.
      num_devices: number of devices; None: all.

    Raises:
      UserError: 'pallas' is requested and does not support the sizes or the device.
    """
    if wanted == "xla" or (wanted == "auto" and dtype == "float32"):
        return "xla"
    platform = platform or jax.default_backend()
    reason = _unmet_requirement(lengths, head_size, platform, capability, num_devices)
    if wanted == "auto":
        return "pallas" if platform == "gpu" and reason is None else "xla"
    if reason:
        raise UserError(
            f"attention_kernel = 'pallas' on {platform.upper()} needs {reason}; "
            "attention_kernel = 'auto' takes any size"
        )
    return wanted


def _unmet_requirement(
    lengths: dict[str, int],
    head_size: int,
    platform: str | None = None,
    capability: str | None = None,
    num_devices: int | None = None,
) -> str | None:
    """The first requirement of the fused kernels that is not met, for a message; None if all are.

    The sides of Triton's tiles are powers of 2 and at least 16. A TPU's vectors have 128 lanes. On
    a CPU, the kernels are interpreted and support all sizes.
    """
    platform = platform or jax.default_backend()
    capability = capability or getattr(jax.devices()[0], "compute_capability", None)
    num_devices = num_devices or jax.device_count()
    if platform == "gpu" and capability in ("6.0", "6.1", "7.0", "7.5"):
        return f"a GPU of compute capability 8.0 or more, not {capability}"
    if platform == "tpu" and num_devices > 1:  # jax-ml/jax issue 38196: not split over TPUs
        return f"a single TPU, not {num_devices}"
    multiple = {"gpu": 16, "tpu": 128}.get(platform, 1)
    for name, length in lengths.items():
        if length % multiple:
            return f"a {name} that is a multiple of {multiple}, not {length}"
    if platform == "gpu" and head_size not in (16, 32, 64, 128):
        return f"a head_size of 16, 32, 64 or 128, not {head_size}"
    if platform == "tpu" and head_size % 128:
        return f"a head_size that is a multiple of 128, not {head_size}"
    return None


def _xla_attention(remat: bool):
    return attend_with_remat if remat else attend


def _fused_window_attention(queries, scale, tokens, carried, starts, bias, dropout):
    # Imported here: Pallas takes half a second, which only its users should wait for.
    from block_recurrent.ops.kernels.default_tiles import choose_bands
    from block_recurrent.ops.kernels.window_attention import window_attention

    window = queries.shape[3]
    rows, tokens = jax.tree.map(from_blocks_of_heads, (queries, tokens))
    carried = jax.tree.map(lambda block: block.swapaxes(1, 2), carried)
    bands = choose_bands(window, queries.dtype)
    y = window_attention(rows, scale, tokens, carried, starts, bias, dropout, bands)
    return to_blocks_of_heads(y, window)


def _fused_unmasked_attention(queries, scale, keys, values):
    from block_recurrent.ops.kernels.default_tiles import choose_rectangles
    from block_recurrent.ops.kernels.window_attention import attention_by_head, unmasked_attention

    shape = queries.shape
    tilings = choose_rectangles(shape[-2], keys.shape[-2], queries.dtype)
    if queries.ndim == 4:
        return attention_by_head(queries, scale, KV(keys, values), tilings)
    blocks = KV(keys.swapaxes(2, 3), values.swapaxes(2, 3))
    y = unmasked_attention(from_blocks_of_heads(queries), scale, blocks, tilings)
    return to_blocks_of_heads(y, shape[-2])
