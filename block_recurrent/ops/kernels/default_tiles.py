"""Into which tiles band and rectangle are cut on which machine."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from block_recurrent.ops.kernels.band import Band, Rectangle, Tiles
from block_recurrent.ops.kernels.window_attention import Tilings

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
) -> Tilings:
    """The band cut into tiles that suit the machine, or smaller ones that divide the window.

    Args:
      window_length: W.
      dtype: of queries, keys and values.
      platform: None: the one at hand, of which a CPU interprets the kernels of a GPU: slow, and
        good for tests.
      capability: a GPU's compute capability; None: that of the one at hand.
    """
    platform = platform or jax.default_backend()

    def band(tiles: Tiles) -> Band:
        rows = math.gcd(window_length, tiles.queries)
        fitted = dataclasses.replace(tiles, queries=rows, keys=math.gcd(rows, tiles.keys))
        return Band(window_length, fitted, *_runs_on(platform))

    return Tilings(*map(band, _tiles(dtype, platform, capability)))


def choose_rectangles(
    num_queries: int,
    num_keys: int,
    dtype: DTypeLike,
    platform: str | None = None,
    capability: str | None = None,
) -> Tilings:
    """The rectangle of a block's queries and keys cut likewise."""
    platform = platform or jax.default_backend()

    def rectangle(tiles: Tiles) -> Rectangle:
        sizes = math.gcd(num_queries, tiles.queries), math.gcd(num_keys, tiles.keys)
        fitted = dataclasses.replace(tiles, queries=sizes[0], keys=sizes[1])
        return Rectangle(num_queries, fitted, *_runs_on(platform), keys=num_keys)

    return Tilings(*map(rectangle, _tiles(dtype, platform, capability)))


def _tiles(dtype: DTypeLike, platform: str, capability: str | None) -> tuple[Tiles, Tiles, Tiles]:
    capability = capability or getattr(jax.devices()[0], "compute_capability", None)
    if platform == "tpu":
        return TPU
    if jnp.dtype(dtype).itemsize > 2:
        return GPU_FLOAT32
    return DATACENTER_GPU if capability in DATACENTER else GPU


def _runs_on(platform: str) -> tuple[str, bool]:
    """For which platform the kernels are written, and whether they are interpreted."""
    return "tpu" if platform == "tpu" else "gpu", platform == "cpu"
