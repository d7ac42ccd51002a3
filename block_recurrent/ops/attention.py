"""Which implementation of sliding-window attention runs: XLA's, or the fused kernels of Pallas."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from block_recurrent.errors import UserError
from block_recurrent.types import KV

# Where heads stand: before the length, for products of matrices, or where the projections leave
# them, which the fused kernels read.
HEADS_AXIS = {"xla": -3, "pallas": -2}


def heads_first(tree: Any, kernel: str) -> Any:
    """Arrays as a kernel takes them, with their heads before the length."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, HEADS_AXIS[kernel], -3), tree)


def for_kernel(tree: Any, kernel: str) -> Any:
    """Arrays with their heads behind the length, as a kernel takes them."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -2, HEADS_AXIS[kernel]), tree)


def choose_kernel(
    wanted: str,
    window_length: int,
    head_size: int,
    dtype: str,
    num_states: int = 0,
    platform: str | None = None,
    capability: str | None = None,
    num_devices: int | None = None,
) -> str:
    """'pallas' or 'xla'; of 'auto' the first where a GPU takes these sizes in bfloat16.

    Chosen once, when a model is made, by the platform at hand. `jax.lax.platform_dependent` would
    choose at lowering, but under differentiation both branches leave their residuals, so that the
    fused kernel would carry the weights that it is there to avoid.

    Args:
      wanted: `ModelConfig.attention_kernel`.
      window_length: W.
      head_size: K.
      dtype: of the computation.
      num_states: S, of the states that the layer reads, if any.
      platform: as `jax.default_backend()` names it; None: that one.
      capability: a GPU's compute capability; None: that of the one at hand.
      num_devices: None: all there are.

    Raises:
      UserError: 'pallas' is wanted and cannot take the sizes.
    """
    if wanted == "xla" or (wanted == "auto" and dtype == "float32"):
        return "xla"
    platform = platform or jax.default_backend()
    capability = capability or getattr(jax.devices()[0], "compute_capability", None)
    num_devices = num_devices or jax.device_count()
    lengths = {"window_length": window_length, "num_states": num_states}
    reason = _misfit(lengths, head_size, platform, capability, num_devices)
    if wanted == "auto":
        return "pallas" if platform == "gpu" and reason is None else "xla"
    if reason:
        raise UserError(
            f"attention_kernel = 'pallas' on {platform.upper()} needs {reason}; "
            "attention_kernel = 'auto' takes any size"
        )
    return wanted


def _misfit(
    lengths: dict[str, int],
    head_size: int,
    platform: str,
    capability: str | None,
    num_devices: int,
) -> str | None:
    """What the kernels of a platform need and do not get; interpreted on CPU they take any size.

    Triton's tiles measure powers of 2 and at least 16, a TPU's vectors are 128 wide.
    """
    if platform == "gpu" and capability in ("6.0", "6.1", "7.0", "7.5"):
        return f"a GPU of compute capability 8.0 or more, not {capability}"
    if platform == "tpu" and num_devices > 1:  # jax-ml/jax issue 38196: not split over TPUs
        return f"a single TPU, not {num_devices}"
    unit = {"gpu": 16, "tpu": 128}.get(platform, 1)
    for name, length in lengths.items():
        if length % unit:
            return f"a {name} that is a multiple of {unit}, not {length}"
    if platform == "gpu" and head_size not in (16, 32, 64, 128):
        return f"a head_size of 16, 32, 64 or 128, not {head_size}"
    if platform == "tpu" and head_size % 128:
        return f"a head_size that is a multiple of 128, not {head_size}"
    return None


def fused_attention(
    queries: Float[Array, "B T H K"],
    tokens: KV,
    carried: KV,
    starts: Bool[Array, "B N"] | None,
    bias: Float[Array, "H R"] | None,
    dropout: Float[Array, "H W W2"] | None,
) -> Float[Array, "B T H K"]:
    """`kernels.window_attention` of a `Window`, with the tiles of the platform.

    See there for the arguments; `carried` has the form of a cache, ``[B, H, W, K]``.
    """
    # Here, since Pallas takes half a second to import, which only its users should wait for.
    from block_recurrent.ops.kernels.default_tiles import choose_bands
    from block_recurrent.ops.kernels.window_attention import window_attention

    carried = jax.tree.map(lambda block: block.swapaxes(1, 2), carried)
    bands = choose_bands(carried.keys.shape[1], queries.dtype)
    return window_attention(queries, tokens, carried, starts, bias, dropout, bands)


def fused_read(
    queries: Float[Array, "B T H K"],
    keys: Float[Array, "*blocks B V H K"],
    values: Float[Array, "*blocks B V H K"],
) -> Float[Array, "B T H K"]:
    """`kernels.unmasked_attention`: every query of a block sees all keys of the block.

    Without the axis of blocks there is one, of all queries.
    """
    from block_recurrent.ops.kernels.default_tiles import choose_rectangles
    from block_recurrent.ops.kernels.window_attention import unmasked_attention

    keys, values = (x.reshape(-1, *x.shape[-4:]) for x in (keys, values))
    tilings = choose_rectangles(queries.shape[1] // len(keys), keys.shape[2], queries.dtype)
    return unmasked_attention(queries, KV(keys, values), tilings)
