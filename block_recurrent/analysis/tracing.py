"""What the recurrent layers do along a text, as named arrays."""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from block_recurrent.analysis.inspection import Look, look_at_block
from block_recurrent.data.vocabularies import Vocabulary

GATE_EDGES = np.linspace(0, 1, 51)  # of the bins that gate values are counted in
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ATTENTION_BLOCKS = 4  # at the end of the text, whose attention is kept whole

# Axes and meaning of each array of a `Trace`; {} is the gate, N the blocks of the text.
ARRAYS = {
    "norm": "[N, S] L2 norm of the state after the block",
    "norm_of_change": "[N, S] L2 norm of its difference to the state W tokens before",
    "cosine_to_previous": "[N, S] cosine to the state W tokens before",
    "cosine_to_initial": "[N, S] cosine to the learned initial state",
    "read_by_tokens": "[N, S] attention of the block's tokens to each state, mean over heads",
    "{}_keep_by_block": "[N, S] what the gate multiplies the state by, mean over units",
    "{}_take_by_block": "[N, S] what it multiplies the new values by",
    "{}_keep": "[S, D] the same, mean over blocks",
    "{}_take": "[S, D]",
    "{}_keep_histogram": "[50] how often a value is in each bin, over blocks, states and units",
    "{}_take_histogram": "[50]",
    "gate_edges": "[51] of the bins",
    "states_to_states": "[4, H, S, S] attention weights of the last blocks; rows sum to 1",
    "states_to_tokens": "[4, H, S, 2W] to the tokens of the block before and of this one",
    "tokens_to_states": "[4, H, W, S]",
}


class Text(NamedTuple):
    """What the model reads: the tokens shifted by one, as in training, in whole blocks."""

    name: str
    inputs: Int[np.ndarray, " T"]
    vocabulary: Vocabulary


class Seen(NamedTuple):
    """What is kept of one block: a row a block, sums over blocks, and attention."""

    rows: dict[str, Float[Array, " S"]]
    sums: dict[str, Array]
    attention: dict[str, Array]


Trace = dict[int, dict[str, np.ndarray]]  # layer → the arrays of `ARRAYS`


def make_tracer(
    graphdef: nnx.GraphDef, window_length: int
) -> Callable[[dict[str, Any], Int[np.ndarray, " T"]], Trace]:
    """A function of parameters and a text's input tokens, a multiple of W, that follows them."""

    def step(params, block, state):
        model = nnx.merge(graphdef, params)
        looks, state = look_at_block(model, block, state)
        initial = {index: model.layers[index].cell.initial[...] for index in looks}
        return {index: see(look, initial[index]) for index, look in looks.items()}, state

    step = jax.jit(step, donate_argnums=2)

    def trace(params: dict[str, Any], tokens: Int[np.ndarray, " T"]) -> Trace:
        state = nnx.merge(graphdef, params).initial_state(1)
        rows, sums = [], None
        attention = collections.deque(maxlen=ATTENTION_BLOCKS)
        blocks = tokens.reshape(-1, 1, window_length).astype(np.int32)
        for block in blocks:
            seen, state = step(params, block, state)
            rows.append({index: each.rows for index, each in seen.items()})
            attention.append({index: each.attention for index, each in seen.items()})
            new = {index: each.sums for index, each in seen.items()}
            sums = new if sums is None else jax.tree.map(jnp.add, sums, new)
        stacked = jax.tree.map(lambda *each: np.stack(each), *jax.device_get(rows))
        weights = jax.tree.map(lambda *each: np.stack(each), *jax.device_get(list(attention)))
        sums = jax.device_get(sums)
        return {
            index: stacked[index]
            | weights[index]
            | {name: _mean(name, total, len(blocks)) for name, total in sums[index].items()}
            | {"gate_edges": GATE_EDGES}
            for index in stacked
        }

    return trace


def see(look: Look, initial: Float[Array, "S D"]) -> Seen:
    """What is kept of a look at one row."""
    before, after = look.entering[0], look.leaving[0]
    rows = {
        "norm": jnp.linalg.norm(after, axis=-1),
        "norm_of_change": jnp.linalg.norm(after - before, axis=-1),
        "cosine_to_previous": cosine(after, before),
        "cosine_to_initial": cosine(after, initial),
        "read_by_tokens": look.tokens_to_states[0].mean(axis=(0, 1)),
    }
    sums = {}
    for gate, values in look.gates.items():
        for name, value in values._asdict().items():
            rows[f"{gate}_{name}_by_block"] = value[0].mean(axis=-1)
            sums[f"{gate}_{name}"] = value[0]
            sums[f"{gate}_{name}_histogram"] = jnp.histogram(value, GATE_EDGES)[0]
    kinds = "states_to_states", "states_to_tokens", "tokens_to_states"
    return Seen(rows, sums, {kind: getattr(look, kind)[0] for kind in kinds})


def cosine(a: Float[Array, "S D"], b: Float[Array, "S D"]) -> Float[Array, " S"]:
    """Of the angle between the vectors of two states."""
    norms = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return jnp.sum(a * b, axis=-1) / norms


def gate_quantiles(arrays: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """`QUANTILES` of the values of each gate, over states and units."""
    names = [name for name in arrays if name.endswith(("_keep", "_take"))]
    return {name: np.quantile(arrays[name], QUANTILES).tolist() for name in names}


def gate_names(arrays: dict[str, np.ndarray]) -> list[str]:
    """The gates of a layer, as 'output_gate'."""
    # From bottom to top; a pytree has its keys in the order of the alphabet.
    names = (name.removesuffix("_keep") for name in arrays if name.endswith("_keep"))
    return sorted(names, reverse=True)


def _mean(name: str, total: np.ndarray, blocks: int) -> np.ndarray:
    """Histograms stay counts."""
    return total if name.endswith("_histogram") else total / blocks
