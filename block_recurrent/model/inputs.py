"""Checks of what callers pass to the modules: one sentence, instead of an error deep inside JAX.

They look at shapes and types only, so they run while a function is traced and cost nothing once it
is compiled. A shape that a module expects is written as its sizes, with a letter of
`block_recurrent.types` where any size will do.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from block_recurrent.errors import UserError
from block_recurrent.fields import Range, check_value
from block_recurrent.types import ModelState


def check_shape(name: str, array: Any, *wanted: int | str):
    """Raises UserError unless `array` is an array with these sizes, where a letter is any size."""
    should = f"[{', '.join(map(str, wanted))}]"
    if not hasattr(array, "shape"):
        raise UserError(f"{name} is {_described(array)}: pass an array of shape {should}")
    same = len(array.shape) == len(wanted) and all(
        isinstance(size, str) or size == found
        for size, found in zip(wanted, array.shape, strict=True)
    )
    if not same:
        raise UserError(f"{name} has shape {list(array.shape)}, but should have {should}")


def check_keys_values(name: str, pair: Any, *wanted: int | str):
    """Raises UserError unless `pair` is a `KV` whose two arrays have the wanted shape."""
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise UserError(f"{name} is {_described(pair)}: pass a KV of keys and values")
    check_shape(f"{name}.keys", pair[0], *wanted)
    check_shape(f"{name}.values", pair[1], *pair[0].shape)


def check_length(length: int, window: int):
    """Raises UserError unless a segment of this length consists of whole windows."""
    if length == 0 or length % window:
        below = length // window * window
        lengths = f"{below} or {below + window}" if below else window
        raise UserError(
            f"{length} tokens are not a multiple of the window, {window}: cut or pad them to "
            f"{lengths}"
        )


def check_tokens(tokens: Any, vocab_size: int, window: int):
    """Raises UserError unless `tokens` are a segment of token ids.

    The values are checked only where they are known: not while tracing.
    """
    check_shape("tokens", tokens, "B", "T")
    check_length(tokens.shape[1], window)
    if not isinstance(tokens, np.ndarray | jax.Array):  # such as a tensor of PyTorch
        raise UserError(f"tokens is {_described(tokens)}: pass an array of NumPy or JAX")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise UserError(f"tokens are of type {tokens.dtype}: pass integers, such as int32")
    if isinstance(tokens, jax.Array):
        if isinstance(tokens, jax.core.Tracer) or not tokens.is_fully_addressable:
            return
        tokens = jax.device_get(tokens)
    invalid = tokens[(tokens < 0) | (tokens >= vocab_size)]
    if invalid.size:
        raise UserError(
            f"tokens contain {invalid[0]}: the tokens of this model are 0 to {vocab_size - 1} "
            f"(vocab_size = {vocab_size})"
        )


def check_starts(starts: Any, batch: int, blocks: int):
    """Raises UserError unless `starts` is None, or says of every block whether it is a start."""
    if starts is None:
        return
    check_shape("starts", starts, batch, blocks)
    if starts.dtype != np.bool_:
        raise UserError(
            f"starts are of type {starts.dtype}: pass bools, True where a block starts a document"
        )


def check_state(state: Any, wanted: ModelState):
    """Raises UserError unless `state` is one of this model, for this many rows.

    Args:
      state: what was passed.
      wanted: the shapes of the model's state. A layer that carries no keys and values accepts them:
        decoding with full attention passes those of a segment.
    """
    if not isinstance(state, tuple) or len(state) != len(wanted):
        found = f"{len(state)} layers" if isinstance(state, tuple) else _described(state)
        raise UserError(
            f"state is {found}, but the model has {len(wanted)} layers: pass what "
            "model.initial_state or the previous call returned"
        )
    for index, (layer, expected) in enumerate(zip(state, wanted, strict=True)):
        for field, leaf in expected._asdict().items():
            name, found = f"state[{index}].{field}", getattr(layer, field, None)
            if leaf is None and found is not None and field != "cache":
                raise UserError(f"{name} is not None: this state is that of another model")
            if isinstance(leaf, tuple):
                check_keys_values(name, found, *leaf[0].shape)
            elif leaf is not None:
                check_shape(name, found, *leaf.shape)


def check_batch_size(batch_size: Any) -> int:
    """The number of rows. Raises UserError unless it is an integer of at least 1."""
    return check_value("batch_size", batch_size, Annotated[int, Range(1)])


def check_dropout_key(key: Any):
    """Raises UserError unless `key` is None or a random key of JAX."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    is_typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if key is not None and not is_typed and (dtype, shape) != (np.uint32, (2,)):
        raise UserError("dropout_key is not one random key: pass jax.random.key(seed)")


def check_rngs(rngs: Any):
    """Raises UserError unless `rngs` can give initial parameters."""
    if not isinstance(rngs, nnx.Rngs):
        raise UserError(f"rngs is {_described(rngs)}: pass nnx.Rngs(0)")


def _described(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"
