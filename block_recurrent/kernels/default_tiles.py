"""Into which tiles the band is cut on which machine."""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from block_recurrent.kernels.band import Band, Tiles
from block_recurrent.kernels.window_attention import Bands

# Of the forward kernel, of the gradient of queries and bias, of that of keys and values. On an H100
# two programs of 4 warps a processor were faster than one of 8 with tiles twice as large.
TPU = (Tiles(128, 128), Tiles(128, 128), Tiles(128, 128))
DATACENTER_GPU = (Tiles(64, 64), Tiles(64, 64), Tiles(64, 64, stages=1))
GPU = (Tiles(64, 64), Tiles(64, 64), Tiles(64, 64, warps=8))
GPU_FLOAT32 = (Tiles(64, 32), Tiles(32, 32), Tiles(32, 16))

# Compute capabilities whose processors have 160 KiB of shared memory and more; others have 99.
DATACENTER = ("8.0", "9.0", "10.0", "10.3")


def choose_bands(
    window_length: int,
    dtype: DTypeLike,
    platform: str | None = None,
    capability: str | None = None,
) -> Bands:
    """The band cut into tiles that suit the machine, or smaller ones that divide the window.

    Args:
      window_length: W.
      dtype: of queries, keys and values.
      platform: None: the one at hand, of which a CPU interprets the kernels of a GPU: slow, and
        good for tests.
      capability: a GPU's compute capability; None: that of the one at hand.
    """
    platform = platform or jax.default_backend()
    capability = capability or getattr(jax.devices()[0], "compute_capability", None)
    if platform == "tpu":
        tiles = TPU
    elif jnp.dtype(dtype).itemsize > 2:
        tiles = GPU_FLOAT32
    else:
        tiles = DATACENTER_GPU if capability in DATACENTER else GPU

    def band(tiles: Tiles) -> Band:
        rows = math.gcd(window_length, tiles.queries)
        fitted = Tiles(rows, math.gcd(rows, tiles.keys), tiles.warps, tiles.stages)
        return Band(window_length, fitted, "tpu" if platform == "tpu" else "gpu", platform == "cpu")

    return Bands(*map(band, tiles))
