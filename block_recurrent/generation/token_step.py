"""One token through the layers: the maths of the forward, with the tokens before it in rings."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from block_recurrent.model.attention import SlidingWindowAttention
from block_recurrent.model.transformer import BlockRecurrentTransformer
from block_recurrent.ops.attention import heads_first
from block_recurrent.ops.dot_product import merge_heads
from block_recurrent.ops.positions import HIDDEN, rotate, turn, turns
from block_recurrent.types import KV, ModelState


class Rings(NamedTuple):
    """The last V tokens of each row and layer: what the next token attends to.

    The newest is written into its place only when the next token comes: so a ring is changed before
    it is read and not after, which XLA can do in place. For that a ring must also have the very
    shape that the product of matrices takes: rows and heads in one axis.

    Attributes:
      layers: keys and values of each layer, ``[B·H, V, K]``.
      newest: those of the newest token, ``[B·H, 1, K]``.
      slot: where the newest belongs; the one behind it is the oldest.
    """

    layers: tuple[KV, ...]
    newest: tuple[KV, ...]
    slot: Int[Array, ""]

    def written(self) -> tuple[KV, ...]:
        """The rings with the newest token in its place."""

        def write(ring, new):
            return jax.lax.dynamic_update_slice_in_dim(ring, new, self.slot, axis=1)

        return jax.tree.map(write, self.layers, self.newest)


class Places(NamedTuple):
    """How the V places of a ring stand to the next token.

    Attributes:
      distance: next token − key: V for the oldest, 1 for the newest.
      bias: |scale| · position bias of each layer; zeros under rotary positions.
      turns: rotation of the keys, cosine and sine; None under T5's.
    """

    distance: Int[Array, " V"]
    bias: Float[Array, "layers H V"]
    turns: Float[Array, "2 V half"] | None

    def rolled(self, slot: Int[Array, ""]) -> "Places":
        """The same in a ring whose newest key is at `slot`."""
        slot = slot + 1  # the oldest
        return Places(
            jnp.roll(self.distance, slot),
            jnp.roll(self.bias, slot, axis=2),
            None if self.turns is None else jnp.roll(self.turns, slot, axis=1),
        )


def places(model: BlockRecurrentTransformer, size: int) -> Places:
    """The places of rings of `size` tokens in order, the oldest first."""
    config, distance = model.config, np.arange(size, 0, -1)
    if config.positions == "rope":
        bias = jnp.zeros((config.num_layers, config.num_heads, size))
        rotations = jnp.asarray(turns(np.arange(size), config.head_size), jnp.float32)
        return Places(jnp.asarray(distance), bias, rotations)
    bias = jnp.stack([layer.attention.bias(distance) for layer in model.layers])
    return Places(jnp.asarray(distance), bias, None)


def states_to_read(model: BlockRecurrentTransformer, memory: ModelState) -> tuple[KV | None, ...]:
    """Keys and values ``[B, H, S, K]`` of the states that each recurrent layer has in a block."""
    return tuple(
        None
        if state.recurrent is None
        else heads_first(layer.cell.read(state.recurrent), layer.cell.kernel)
        for layer, state in zip(model.layers, memory, strict=True)
    )


def read_token(
    model: BlockRecurrentTransformer,
    token: Int[Array, " B"],
    rings: Rings,
    places: Places,
    seen: Int[Array, " B"],
    states: Sequence[KV | None],
) -> tuple[Float[Array, "B L"], Rings]:
    """Logits of the token after `token`, and the rings of which it is the newest.

    Args:
      model: the model.
      token: of each row.
      rings: the tokens before.
      places: of the rings in order.
      seen: how many of the tokens before are of this segment, which matters to full attention.
      states: `states_to_read` in this block.
    """
    layers, places, visible = rings.written(), places.rolled(rings.slot), None
    if model.config.attention == "full":
        visible = places.distance <= seen[:, None]
    x = model.embed(token[:, None])
    shared = states[model.config.recurrent_indices[-1]] if model.config.feedback else None
    newest = []
    for index, layer in enumerate(model.layers):
        bias, h = places.bias[index], layer.attention_norm(x)
        read = shared if states[index] is None else states[index]
        y, new = attend_to_ring(
            layer.attention, h, layers[index], bias, places.turns, visible, read
        )
        newest.append(new)
        x = layer.feed_forward(x + y)
    rings = Rings(layers, tuple(newest), (rings.slot + 1) % places.distance.size)
    return model.readout(model.final_norm(x))[:, 0], rings


def attend_to_ring(
    attention: SlidingWindowAttention,
    x: Float[Array, "B 1 D"],
    ring: KV,
    bias: Float[Array, "H V"],
    turns_of_keys: Float[Array, "2 V half"] | None,
    visible: Bool[Array, "B V"] | None,
    states: KV | None,
) -> tuple[Float[Array, "B 1 D"], KV]:
    """Attention of a single token, and its own keys and values ``[B·H, 1, K]``.

    A ring holds exactly the W tokens that sliding-window attention sees, so that nothing is masked;
    full attention sees those that are `visible`, and zero if there are none.
    """
    heads = attention.project(x, block_length=1)
    shape = (len(x), attention.num_heads, 1, attention.head_size)
    queries, keys = heads.queries.reshape(-1, 1, shape[-1]), ring.keys
    if turns_of_keys is not None:
        queries = rotate(queries, np.array([keys.shape[1]]))
        keys = turn(keys, *turns_of_keys)
    bias = bias[:, None]
    if visible is not None:
        bias = jnp.where(visible[:, None, None], bias, HIDDEN)
    bias = jnp.broadcast_to(bias, (*shape[:-1], keys.shape[1])).reshape(-1, 1, keys.shape[1])
    results = [attention.core(queries, keys, ring.values, bias).reshape(shape)]
    if visible is not None:
        results[0] *= visible.any(axis=1)[:, None, None, None]
    if states is not None:
        results.append(attention.core(heads.state_queries.reshape(shape), *states))
    own = KV(*(leaf.reshape(-1, 1, shape[-1]) for leaf in heads.tokens))
    return attention.output(merge_heads(*results)), own
