"""Reshapes and transpositions: segments to blocks, embeddings to heads, and back."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def to_blocks(x: Float[Array, "B T D"], window_length: int) -> Float[Array, "N B W D"]:
    """Cuts a segment into blocks. The axis of blocks comes first."""
    batch, length, width = x.shape
    return jnp.moveaxis(x.reshape(batch, length // window_length, window_length, width), 1, 0)


def from_blocks(x: Float[Array, "N B W D"]) -> Float[Array, "B T D"]:
    """Joins the blocks of a segment."""
    blocks, batch, window, width = x.shape
    return jnp.moveaxis(x, 0, 1).reshape(batch, blocks * window, width)


def to_heads(x: Float[Array, "*axes HK"], num_heads: int) -> Float[Array, "*axes H K"]:
    """Splits the last axis into heads."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def to_blocks_of_heads(x: Float[Array, "B T H K"], window_length: int) -> Float[Array, "N B H W K"]:
    """Cuts a segment into blocks, and moves the heads before the length."""
    batch, length, *heads = x.shape
    x = x.reshape(batch, length // window_length, window_length, *heads)
    return jnp.transpose(x, (1, 0, 3, 2, 4))


def from_blocks_of_heads(x: Float[Array, "N B H W K"]) -> Float[Array, "B T H K"]:
    """Joins the blocks of a segment, and moves the heads behind the length."""
    blocks, batch, heads, window, size = x.shape
    return jnp.transpose(x, (1, 0, 3, 2, 4)).reshape(batch, blocks * window, heads, size)


def merge_heads(*results: Float[Array, "*axes H K"]) -> Float[Array, "*axes HK"]:
    """Concatenates the heads of one or more attention results."""
    y = jnp.concatenate(results, axis=-2)
    return y.reshape(*y.shape[:-2], -1)


def with_previous_block(
    own: Float[Array, "N B H W K"],
    carried: Float[Array, "B H W K"],
    starts: Bool[Array, "B N"] | None,
) -> Float[Array, "N B H 2*W K"]:
    """Concatenates each block with the previous one, or with zeros if it starts a document.

    Args:
      own: the blocks of a segment.
      carried: the block before the segment.
      starts: whether a block starts a document.
    """
    previous = jnp.concatenate([carried[None].astype(own.dtype), own[:-1]])
    if starts is not None:
        previous = jnp.where(starts.T[:, :, None, None, None], 0, previous)
    return jnp.concatenate([previous, own], axis=-2)
