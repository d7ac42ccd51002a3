"""Parameters that a run starts from, with new parts that at first change nothing."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from block_recurrent.errors import UserError
from block_recurrent.interop.model_file import load_model
from block_recurrent.model.config import NON_ARCHITECTURE_FIELDS, ModelConfig
from block_recurrent.model.transformer import BlockRecurrentTransformer, parameters

# Options that may differ between a run and its initial model.
FREE_FIELDS = (*NON_ARCHITECTURE_FIELDS, "window_length", "dtype", "param_dtype")
# Options of the recurrence, which may be anything if the initial model has none.
RECURRENCE_FIELDS = ("num_states", "gate", "configuration", "feedback")
# Where a new part joins the residual stream. While these are zeros, the part changes nothing.
OUTPUTS = ("attention/output/kernel", "ffn/output/kernel", "ngrams/embedding")


def load_initial_params(path: str, config: ModelConfig, seed: int) -> dict[str, Any]:
    """Loads the parameters of `train.initial_model`.

    The run may have more than that model: recurrent cells, layers on top, n-gram embeddings. They
    are added so that the run starts as the same function; see `extend`.

    Args:
      path: a file written by `block_recurrent.export`.
      config: configuration of the model that the run trains.
      seed: of the parameters of new parts.

    Raises:
      UserError: the file cannot be read, or its model is not a part of that of the run.
    """
    model, _ = load_model(path)
    for name, found, wanted in different_fields(model.config, config):
        raise UserError(
            f"train.initial_model = '{path}' has {name} = {found!r}, but this run has "
            f"{wanted!r}: set BlockRecurrentTransformer.{name} = {found!r}"
        )
    return extend(parameters(model), config, seed)


def different_fields(old: ModelConfig, new: ModelConfig) -> list[tuple[str, Any, Any]]:
    """Name and both values of the options by which `new` is not `old` with additional parts."""
    free = set(FREE_FIELDS)
    if not old.recurrent_layers:
        free.update(RECURRENCE_FIELDS)
    if set(old.recurrent_indices) <= set(new.recurrent_indices):
        free.add("recurrent_layers")
    if old.num_layers < new.num_layers:
        free.add("num_layers")
    if not old.ngram_rows:
        free.add("ngram_rows")
    # A layer that is counted from the top is another one if layers are added.
    before, after = (
        dataclasses.asdict(config) | {"recurrent_layers": config.recurrent_indices}
        for config in (old, new)
    )
    return [
        (name, before[name], after[name])
        for name in before
        if name not in free and before[name] != after[name]
    ]


def extend(params: dict[str, Any], config: ModelConfig, seed: int) -> dict[str, Any]:
    """The parameters of a larger model that computes the same as a smaller one.

    Parameters with the same path are those of the smaller model. The others get their usual initial
    values, except that the projections by which a new part joins the residual stream are zeros: the
    gradient first moves these, then all others.

    Args:
      params: parameters of the smaller model.
      config: of the larger model; see `different_fields`.
      seed: of the initial values.
    """
    old = dict(jax.tree_util.tree_leaves_with_path(params))

    def choose(path, new):
        if path in old and old[path].shape == new.shape:
            return old[path].astype(new.dtype)
        if path in old:  # the output of attention, which now also reads states
            rows = old[path].shape[0]
            return jnp.zeros_like(new).at[:rows].set(old[path])
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jnp.zeros_like(new) if name.endswith(OUTPUTS) else new

    @jax.jit
    def initial():
        rngs = nnx.Rngs(params=jax.random.key(seed))
        return parameters(BlockRecurrentTransformer(config, rngs=rngs))

    return jax.tree_util.tree_map_with_path(choose, initial())
