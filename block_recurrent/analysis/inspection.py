"""Gates, attention and states of the recurrent layers, block by block."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from block_recurrent.model.layers import RecurrentLayer
from block_recurrent.model.recurrent_cell import RecurrentCell
from block_recurrent.model.transformer import BlockRecurrentTransformer
from block_recurrent.types import KV, LayerState, ModelState


class GateValues(NamedTuple):
    """Multipliers of a gate, x·keep + y·take: of the old state x, and of the new values y."""

    keep: Float[Array, "B S D"]
    take: Float[Array, "B S D"]


class LayerActivity(NamedTuple):
    """What a recurrent layer computes in one block.

    Attributes:
      entering: the state before the block, which the block's tokens attend to.
      leaving: the state after the block.
      gates: the gates that the configuration has: 'output_gate', 'ffn_gate', or both.
      states_to_states: attention weights; rows sum to 1.
      states_to_tokens: attention weights over the tokens of the previous block and this one.
      tokens_to_states: attention weights of the block's tokens over the states.
    """

    entering: Float[Array, "B S D"]
    leaving: Float[Array, "B S D"]
    gates: dict[str, GateValues]
    states_to_states: Float[Array, "B H S S"]
    states_to_tokens: Float[Array, "B H S V"]
    tokens_to_states: Float[Array, "B H W S"]


def inspect_block(
    model: BlockRecurrentTransformer, tokens: Int[Array, "B W"], state: ModelState
) -> tuple[Float[Array, "B W D"], dict[int, LayerActivity], ModelState]:
    """Run one block through the model, and record its recurrent layers.

    Running a model block by block gives the same results as running it on whole segments, with
    feedback and without.

    Returns:
      The features that `readout` turns into logits, the activity of each recurrent layer by layer
      index, and the model's state after the block.
    """
    state, last_tokens = model.without_last(state)
    x = model.embed(tokens, last_tokens)
    states = None
    if model.config.feedback:
        source = model.config.recurrent_indices[-1]
        read = model.layers[source].cell.read(state[source].recurrent)
        states = jax.tree.map(lambda leaf: leaf[None], read)
    activities, after = {}, []
    for index, (layer, before) in enumerate(zip(model.layers, state, strict=True)):
        if before.recurrent is not None:
            activities[index] = inspect_layer(layer, x, before)
        x, layer_state = layer(x, before, states=states)
        after.append(layer_state)
    return model.final_norm(x), activities, model.with_last(tokens, tuple(after))


def inspect_layer(
    layer: RecurrentLayer, x: Float[Array, "B W D"], before: LayerState
) -> LayerActivity:
    """Record one recurrent layer in one block, from its input `x` and the state `before` it."""
    cell, state = layer.cell, before.recurrent
    heads = layer.attention.project(layer.attention_norm(x))
    window, _ = layer.attention.extend(heads.tokens, before.cache, None)
    h = cell.with_ids(state)
    tokens = jax.tree.map(lambda leaf: leaf[0], window.joined())
    queries, token_queries = cell.queries(h)
    states, attended = cell.attend(h, tokens)
    return LayerActivity(
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
    """The gate values of `RecurrentCell.update`, whose computation this function repeats."""

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
    """softmax(queries · keysᵀ), which `attend` does not return."""
    logits = jnp.einsum(
        "BHQK,BHVK->BHQV", queries, keys_values.keys, preferred_element_type=jnp.float32
    )
    return jax.nn.softmax(logits, axis=-1)
