"""Tile sizes of bands and rectangles on each kind of device."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from block_recurrent.ops.kernels.band import Band, Rectangle, Tiles
from block_recurrent.ops.kernels.window_attention import Tilings

# Tiles of the kernels for the output, for the gradients of queries and bias, and for the gradients
# of keys and values. On an H100, two programs of 4 warps per multiprocessor were faster than one
# program of 8 warps with tiles twice as large.
TPU_TILES = (Tiles(128, 128), Tiles(128, 128), Tiles(128, 128))
DATACENTER_GPU_TILES = (Tiles(64, 64), Tiles(64, 64), Tiles(64, 64, stages=1))
GPU_TILES = (Tiles(64, 64), Tiles(64, 64), Tiles(64, 64, warps=8))
GPU_FLOAT32_TILES = (Tiles(64, 32), Tiles(32, 32), Tiles(32, 16))

# Compute capabilities with at least 160 KiB of shared memory per multiprocessor; others have 99.
DATACENTER_CAPABILITIES = ("8.0", "9.0", "10.0", "10.3")


def choose_bands(
    window_length: int,
    dtype: DTypeLike,
    platform: str | None = None,
    capability: str | None = None,
) -> Tilings:
    """Bands with the tiles that suit the device, or with smaller tiles that divide the window.

    Args:
      window_length: W.
      dtype: of queries, keys and values.
      platform: None: the default backend. A CPU interprets the GPU's kernels, which is slow and
        meant for tests.
      capability: compute capability of the GPU; None: that of the first device.
    """
    platform = platform or jax.default_backend()

    def band(tiles: Tiles) -> Band:
        rows = math.gcd(window_length, tiles.queries)
        fitted = dataclasses.replace(tiles, queries=rows, keys=math.gcd(rows, tiles.keys))
        return Band(window_length, fitted, *_kernel_platform(platform))

    return Tilings(*map(band, _tile_sizes(dtype, platform, capability)))


def choose_rectangles(
    num_queries: int,
    num_keys: int,
    dtype: DTypeLike,
    platform: str | None = None,
    capability: str | None = None,
) -> Tilings:
    """Rectangles of a block's queries and keys, with tiles chosen as in `choose_bands`."""
    platform = platform or jax.default_backend()

    def rectangle(tiles: Tiles) -> Rectangle:
        sizes = math.gcd(num_queries, tiles.queries), math.gcd(num_keys, tiles.keys)
        fitted = dataclasses.replace(tiles, queries=sizes[0], keys=sizes[1])
        return Rectangle(num_queries, fitted, *_kernel_platform(platform), keys=num_keys)

    return Tilings(*map(rectangle, _tile_sizes(dtype, platform, capability)))


def _tile_sizes(
    dtype: DTypeLike, platform: str, capability: str | None
) -> tuple[Tiles, Tiles, Tiles]:
    capability = capability or getattr(jax.devices()[0], "compute_capability", None)
    if platform == "tpu":
        return TPU_TILES
    if jnp.dtype(dtype).itemsize > 2:
        return GPU_FLOAT32_TILES
    return DATACENTER_GPU_TILES if capability in DATACENTER_CAPABILITIES else GPU_TILES


def _kernel_platform(platform: str) -> tuple[str, bool]:
    """The platform whose kernels run here, and whether they are interpreted."""
    return "tpu" if platform == "tpu" else "gpu", platform == "cpu"
