"""Trace the recurrent layers along a text, as named arrays."""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from block_recurrent.analysis.inspection import LayerActivity, inspect_block
from block_recurrent.data.vocabularies import Vocabulary

GATE_EDGES = np.linspace(0, 1, 51)  # histogram bins of gate values
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ATTENTION_BLOCKS = 4  # number of blocks at the end of the text whose full attention is kept

# Axes and meaning of each array of a `Trace`; {} is the name of a gate, N the number of blocks.
ARRAYS = {
    "norm": "[N, S] L2 norm of the state after the block",
    "norm_of_change": "[N, S] L2 norm of the difference to the state before the block",
    "cosine_to_previous": "[N, S] cosine to the state before the block",
    "cosine_to_initial": "[N, S] cosine to the learned initial state",
    "read_by_tokens": "[N, S] attention of the block's tokens to each state, mean over heads",
    "{}_keep_by_block": "[N, S] multiplier of the old state, mean over units",
    "{}_take_by_block": "[N, S] multiplier of the new values, mean over units",
    "{}_keep": "[S, D] multiplier of the old state, mean over blocks",
    "{}_take": "[S, D] multiplier of the new values, mean over blocks",
    "{}_keep_histogram": "[50] histogram of the multiplier over blocks, states and units",
    "{}_take_histogram": "[50] likewise",
    "gate_edges": "[51] edges of the histogram bins",
    "states_to_states": "[4, H, S, S] attention weights of the last blocks; rows sum to 1",
    "states_to_tokens": "[4, H, S, 2W] likewise, to the tokens of the previous block and this one",
    "tokens_to_states": "[4, H, W, S] likewise, of the block's tokens to the states",
}


class Text(NamedTuple):
    """A text as model input: whole blocks of tokens, shifted by one as in training."""

    name: str
    inputs: Int[np.ndarray, " T"]
    vocabulary: Vocabulary


class BlockSummary(NamedTuple):
    """The values that a trace keeps of one layer in one block.

    Attributes:
      rows: values that are stacked, one row per block.
      sums: values that are summed over blocks.
      attention: attention weights, kept for the last blocks.
    """

    rows: dict[str, Float[Array, " S"]]
    sums: dict[str, Array]
    attention: dict[str, Array]


Trace = dict[int, dict[str, np.ndarray]]  # layer → the arrays of `ARRAYS`


def make_tracer(
    graphdef: nnx.GraphDef, window_length: int
) -> Callable[[dict[str, Any], Int[np.ndarray, " T"]], Trace]:
    """Make a function (parameters, input tokens) → `Trace`; tokens must be a multiple of W."""

    def step(params, block, state):
        model = nnx.merge(graphdef, params)
        _, activities, state = inspect_block(model, block, state)
        summaries = {
            index: summarize(activity, model.layers[index].cell.initial[...])
            for index, activity in activities.items()
        }
        return summaries, state

    step = jax.jit(step, donate_argnums=2)

    def trace(params: dict[str, Any], tokens: Int[np.ndarray, " T"]) -> Trace:
        state = nnx.merge(graphdef, params).initial_state(1)
        rows, sums = [], None
        attention = collections.deque(maxlen=ATTENTION_BLOCKS)
        blocks = tokens.reshape(-1, 1, window_length).astype(np.int32)
        for block in blocks:
            summaries, state = step(params, block, state)
            rows.append({index: each.rows for index, each in summaries.items()})
            attention.append({index: each.attention for index, each in summaries.items()})
            new = {index: each.sums for index, each in summaries.items()}
            sums = new if sums is None else jax.tree.map(jnp.add, sums, new)
        stacked = jax.tree.map(lambda *each: np.stack(each), *jax.device_get(rows))
        weights = jax.tree.map(lambda *each: np.stack(each), *jax.device_get(list(attention)))
        sums = jax.device_get(sums)
        return {
            index: stacked[index]
            | weights[index]
            | {
                name: _mean_over_blocks(name, total, len(blocks))
                for name, total in sums[index].items()
            }
            | {"gate_edges": GATE_EDGES}
            for index in stacked
        }

    return trace


def summarize(activity: LayerActivity, initial: Float[Array, "S D"]) -> BlockSummary:
    """Summarize the activity of a layer in the first row of the batch.

    Args:
      activity: the activity in one block.
      initial: the learned initial state of the layer.
    """
    before, after = activity.entering[0], activity.leaving[0]
    rows = {
        "norm": jnp.linalg.norm(after, axis=-1),
        "norm_of_change": jnp.linalg.norm(after - before, axis=-1),
        "cosine_to_previous": cosine(after, before),
        "cosine_to_initial": cosine(after, initial),
        "read_by_tokens": activity.tokens_to_states[0].mean(axis=(0, 1)),
    }
    sums = {}
    for gate, values in activity.gates.items():
        for name, value in values._asdict().items():
            rows[f"{gate}_{name}_by_block"] = value[0].mean(axis=-1)
            sums[f"{gate}_{name}"] = value[0]
            sums[f"{gate}_{name}_histogram"] = jnp.histogram(value, GATE_EDGES)[0]
    kinds = "states_to_states", "states_to_tokens", "tokens_to_states"
    return BlockSummary(rows, sums, {kind: getattr(activity, kind)[0] for kind in kinds})


def cosine(a: Float[Array, "S D"], b: Float[Array, "S D"]) -> Float[Array, " S"]:
    """Cosine similarity of each vector of `a` to that of `b`."""
    norms = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return jnp.sum(a * b, axis=-1) / norms


def gate_quantiles(arrays: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """`QUANTILES` of each gate's multipliers, over states and units."""
    names = [name for name in arrays if name.endswith(("_keep", "_take"))]
    return {name: np.quantile(arrays[name], QUANTILES).tolist() for name in names}


def gate_names(arrays: dict[str, np.ndarray]) -> list[str]:
    """Names of the gates of a layer, from bottom to top: 'output_gate', 'ffn_gate'."""
    # The keys of a pytree are sorted, so 'ffn_gate' comes first there.
    names = (name.removesuffix("_keep") for name in arrays if name.endswith("_keep"))
    return sorted(names, reverse=True)


def _mean_over_blocks(name: str, total: np.ndarray, blocks: int) -> np.ndarray:
    """The mean over blocks; histograms stay counts."""
    return total if name.endswith("_histogram") else total / blocks
