"""One token through the layers: the same maths as the forward pass, with a ring-buffer KV cache."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from block_recurrent.model.attention import SlidingWindowAttention
from block_recurrent.model.transformer import BlockRecurrentTransformer
from block_recurrent.ops.blocks import merge_heads
from block_recurrent.ops.dot_product import attend
from block_recurrent.ops.positions import HIDDEN, rotate, rotate_by, rotations
from block_recurrent.types import KV, ModelState


class RingBuffers(NamedTuple):
    """Keys and values of the last V tokens of each row and layer, which the next token attends to.

    The newest token is written to its slot only when the next token is read. So a buffer is updated
    before it is read, and XLA can update it in place. For the same reason, rows and heads share an
    axis, as in the matrix product that reads the buffer.

    Attributes:
      layers: keys and values of each layer, ``[B·H, V, K]``.
      newest: keys and values of the newest token, ``[B·H, 1, K]``.
      slot: index of the newest token; the next slot holds the oldest one.
      tokens: with n-grams, the last tokens of each row, else None.
    """

    layers: tuple[KV, ...]
    newest: tuple[KV, ...]
    slot: Int[Array, ""]
    tokens: Int[Array, "B C"] | None

    def written(self) -> tuple[KV, ...]:
        """The buffers with the newest token in its slot."""

        def write(ring, new):
            return jax.lax.dynamic_update_slice_in_dim(ring, new, self.slot, axis=1)

        return jax.tree.map(write, self.layers, self.newest)


class RingPositions(NamedTuple):
    """Positions of the V slots of a ring buffer relative to the next token.

    Attributes:
      distance: distance from the key to the next token: V for the oldest key, 1 for the newest.
      bias: |scale| · position bias of each layer; zeros with rotary positions.
      rotations: cosine and sine of the keys' rotation; None with T5 positions.
    """

    distance: Int[Array, " V"]
    bias: Float[Array, "layers H V"]
    rotations: Float[Array, "2 V half"] | None

    def rolled(self, slot: Int[Array, ""]) -> "RingPositions":
        """The positions for a buffer whose newest key is at `slot`."""
        slot = slot + 1  # the oldest
        return RingPositions(
            jnp.roll(self.distance, slot),
            jnp.roll(self.bias, slot, axis=2),
            None if self.rotations is None else jnp.roll(self.rotations, slot, axis=1),
        )


def ring_positions(model: BlockRecurrentTransformer, size: int) -> RingPositions:
    """The positions for a buffer of `size` tokens that is in order, the oldest first."""
    config, distance = model.config, np.arange(size, 0, -1)
    if config.positions == "rope":
        bias = jnp.zeros((config.num_layers, config.num_heads, size))
        turns = jnp.asarray(rotations(np.arange(size), config.head_size), jnp.float32)
        return RingPositions(jnp.asarray(distance), bias, turns)
    bias = jnp.stack([layer.attention.bias(distance) for layer in model.layers])
    return RingPositions(jnp.asarray(distance), bias, None)


def states_to_read(model: BlockRecurrentTransformer, memory: ModelState) -> tuple[KV | None, ...]:
    """Keys and values ``[B, H, S, K]`` of the states that enter the block, per layer."""
    return tuple(
        None if state.recurrent is None else layer.cell.read(state.recurrent)
        for layer, state in zip(model.layers, memory, strict=True)
    )


def read_token(
    model: BlockRecurrentTransformer,
    token: Int[Array, " B"],
    rings: RingBuffers,
    positions: RingPositions,
    seen: Int[Array, " B"],
    states: Sequence[KV | None],
) -> tuple[Float[Array, "B L"], RingBuffers]:
    """Logits of the token after `token`, and the ring buffers with `token` as the newest.

    Args:
      model: the model.
      token: one token per row.
      rings: keys and values of the previous tokens.
      positions: `ring_positions` of a buffer that is in order.
      seen: number of previous tokens in the segment; used only by full attention.
      states: `states_to_read` of the current block.
    """
    layers, positions = rings.written(), positions.rolled(rings.slot)
    x, before = model.embed(token[:, None], rings.tokens), rings.tokens
    if before is not None:
        before = jnp.concatenate([before[:, 1:], token[:, None]], axis=1)
    shared = states[model.config.recurrent_indices[-1]] if model.config.feedback else None
    newest = []
    for index, layer in enumerate(model.layers):
        bias, h = positions.bias[index], layer.attention_norm(x)
        read = shared if states[index] is None else states[index]
        y, new = attend_to_ring(layer.attention, h, layers[index], bias, positions, seen, read)
        newest.append(new)
        x = layer.feed_forward(x + y)
    rings = RingBuffers(layers, tuple(newest), (rings.slot + 1) % positions.distance.size, before)
    return model.readout(model.final_norm(x))[:, 0], rings


def attend_to_ring(
    attention: SlidingWindowAttention,
    x: Float[Array, "B 1 D"],
    ring: KV,
    bias: Float[Array, "H V"],
    positions: RingPositions,
    seen: Int[Array, " B"],
    states: KV | None,
) -> tuple[Float[Array, "B 1 D"], KV]:
    """Attention of a single token, and the token's own keys and values ``[B·H, 1, K]``.

    A buffer contains exactly the W tokens that sliding-window attention sees, so nothing is masked.
    Full attention only sees those of its segment (`FullAttention.visible`). If it sees no token,
    its result is zero.
    """
    heads = attention.project(x, block_length=1)
    shape = (len(x), attention.num_heads, 1, attention.head_size)
    queries, keys = heads.queries.reshape(-1, 1, shape[-1]), ring.keys
    if positions.rotations is not None:
        queries = rotate(queries, np.array([keys.shape[1]]))
        keys = rotate_by(keys, *positions.rotations)
    bias, visible = bias[:, None], attention.visible(positions.distance, seen)
    if visible is not None:
        bias = jnp.where(visible[:, None, None], bias, HIDDEN)
    bias = jnp.broadcast_to(bias, (*shape[:-1], keys.shape[1])).reshape(-1, 1, keys.shape[1])
    results = [attend(queries, keys, ring.values, bias).reshape(shape)]
    if visible is not None:
        results[0] *= visible.any(axis=1)[:, None, None, None]
    if states is not None:
        results.append(attend(heads.state_queries.reshape(shape), *states))
    own = KV(*(leaf.reshape(-1, 1, shape[-1]) for leaf in heads.tokens))
    return attention.output(merge_heads(*(y.swapaxes(1, 2) for y in results))), own
