"""Looking inside the recurrent layers: gates, attention and states, block by block."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from block_recurrent.model.layers import RecurrentLayer
from block_recurrent.model.recurrent_cell import RecurrentCell
from block_recurrent.model.transformer import BlockRecurrentTransformer
from block_recurrent.types import KV, LayerState, ModelState


class GateValues(NamedTuple):
    """What a gate multiplies the state by (keep), and what is new (take): x·keep + y·take."""

    keep: Float[Array, "B S D"]
    take: Float[Array, "B S D"]


class Look(NamedTuple):
    """What a recurrent layer does in one block.

    Attributes:
      entering: the state that the block's tokens read.
      leaving: the state after the block.
      gates: by name, 'output_gate' and 'ffn_gate', those that the configuration has.
      states_to_states: attention weights; rows sum to 1.
      states_to_tokens: likewise, over the block before and this one.
      tokens_to_states: likewise.
    """

    entering: Float[Array, "B S D"]
    leaving: Float[Array, "B S D"]
    gates: dict[str, GateValues]
    states_to_states: Float[Array, "B H S S"]
    states_to_tokens: Float[Array, "B H S V"]
    tokens_to_states: Float[Array, "B H W S"]


def look_at_block(
    model: BlockRecurrentTransformer, tokens: Int[Array, "B W"], state: ModelState
) -> tuple[dict[int, Look], ModelState]:
    """Runs one block through the model. Returns looks at its recurrent layers, by their index.

    A model that runs block by block computes what it computes over whole segments, so that one
    block is all there is to follow, with feedback and without.
    """
    x = model.embed(tokens)
    states = None
    if model.config.feedback:
        source = model.config.recurrent_indices[-1]
        read = model.layers[source].cell.read(state[source].recurrent)
        states = jax.tree.map(lambda leaf: leaf[None], read)
    looks, after = {}, []
    for index, (layer, before) in enumerate(zip(model.layers, state, strict=True)):
        if before.recurrent is not None:
            looks[index] = look_at_layer(layer, x, before)
        x, layer_state = layer(x, before, states=states)
        after.append(layer_state)
    return looks, tuple(after)


def look_at_layer(layer: RecurrentLayer, x: Float[Array, "B W D"], before: LayerState) -> Look:
    """One recurrent layer in one block: `x` is what enters it, `before` its state."""
    cell, state = layer.cell, before.recurrent
    heads = layer.attention.project(layer.attention_norm(x))
    window, _ = layer.attention.extend(heads.tokens, before.cache, None)
    h = cell.with_ids(state)
    tokens = jax.tree.map(lambda leaf: leaf[0], window.joined())
    queries, token_queries = cell.queries(h)
    states, attended = cell.attend(h, tokens)
    return Look(
        entering=state,
        leaving=cell.update(state, attended),
        gates=gate_values(cell, state, attended),
        states_to_states=attention_weights(queries, states),
        states_to_tokens=attention_weights(token_queries, tokens),
        tokens_to_states=attention_weights(heads.state_queries[0], states),
    )


def gate_values(
    cell: RecurrentCell, x: Float[Array, "B S D"], attended: Float[Array, "B S HK2"]
) -> dict[str, GateValues]:
    """The gates of `RecurrentCell.update`, which has the same branches."""

    def values(gate, u):
        return GateValues(*(jnp.broadcast_to(each, x.shape) for each in gate.multipliers(u)))

    if cell.configuration == "single":
        return {"ffn_gate": values(cell.ffn_gate, cell.ffn.activations(attended))}
    gates = {"output_gate": values(cell.output_gate, attended)}
    if cell.configuration == "dual":
        x = cell.output_gate(x, cell.output(attended), attended)
        gates["ffn_gate"] = values(cell.ffn_gate, cell.ffn.activations(cell.ffn_norm(x)))
    return gates


def attention_weights(queries: Float[Array, "B H Q K"], keys_values: KV) -> Float[Array, "B H Q V"]:
    """softmax(queries · keysᵀ), which `attend` never keeps."""
    logits = jnp.einsum(
        "BHQK,BHVK->BHQV", queries, keys_values.keys, preferred_element_type=jnp.float32
    )
    return jax.nn.softmax(logits, axis=-1)
