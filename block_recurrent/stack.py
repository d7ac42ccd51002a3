"""How layers are called: to keep or to recompute what is inside them, alone or in runs."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from block_recurrent.layers import TransformerLayer
from block_recurrent.types import KeysValues, LayerState, ModelState


def call(
    layer: TransformerLayer,
    x: Float[Array, "B T D"],
    state: LayerState,
    starts: Bool[Array, "B N"] | None,
    dropout_key: Key[Array, ""] | None,
    states: KeysValues | None,
    *,
    remat: str,
) -> tuple[Float[Array, "B T D"], LayerState]:
    """One layer; with remat 'layer' its gradient computes again what is inside it."""
    run = jax.checkpoint(layer.__call__) if remat == "layer" else layer
    return run(x, state, starts, states=states, dropout_key=dropout_key)


def scan_runs(
    layers: Sequence[TransformerLayer],
    x: Float[Array, "B T D"],
    state: ModelState,
    starts: Bool[Array, "B N"] | None,
    keys: Key[Array, " layers"] | tuple[None, ...],
    states: KeysValues | None,
    *,
    remat: str,
) -> tuple[Float[Array, "B T D"], ModelState]:
    """Layers one after the other, where neighbours of one type are the turns of one scan.

    A run is compiled once, however long it is. Its parameters are stacked here, inside the step:
    outside, each layer keeps its own.
    """
    after = []
    for _, run in itertools.groupby(range(len(layers)), lambda index: type(layers[index])):
        indices = list(run)
        graphdef = nnx.graphdef(layers[indices[0]])
        turns = [(nnx.to_pure_dict(nnx.state(layers[i])), state[i], keys[i]) for i in indices]

        def step(x, turn, graphdef=graphdef):
            params, before, key = turn
            return call(nnx.merge(graphdef, params), x, before, starts, key, states, remat=remat)

        x, stacked = jax.lax.scan(step, x, jax.tree.map(lambda *a: jnp.stack(a), *turns))
        after += [jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(len(indices))]
    return x, tuple(after)
