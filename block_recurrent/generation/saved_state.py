"""Save and load decoding states, for example after reading a long document."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num
from safetensors import SafetensorError, safe_open
from safetensors.flax import save

from block_recurrent.errors import UserError
from block_recurrent.files.writing import atomic_write
from block_recurrent.generation.decoding import DecodingState
from block_recurrent.generation.generator import Generator
from block_recurrent.model.config import NON_ARCHITECTURE_FIELDS, ModelConfig

MODEL = "block_recurrent.DecodingState"  # the entry of the header that describes the model
CONTEXT = "text"  # the array with the last tokens of a stream of text


def save_state(
    path: str | Path, state: DecodingState, generator: Generator, context: Sequence[int] = ()
):
    """Write the state to a safetensors file, atomically.

    Args:
      path: the file.
      state: the state of all rows.
      generator: what made the state.
      context: `TextStream.context`, if the text after this state will be streamed.

    Raises:
      UserError: the file cannot be written.
    """
    StateFormat(generator).save(path, state, context)


def load_state(path: str | Path, generator: Generator) -> DecodingState:
    """Load a state that was saved with the same model.

    Raises:
      UserError: the file cannot be read, or belongs to another model.
    """
    return StateFormat(generator).load(path)


class StateFormat:
    """Writes and reads many states of one model, whose parameters are looked at only once.

    Args:
      generator: what makes the states. Its parameters must not be changed.
    """

    def __init__(self, generator: Generator):
        self._generator, self._model = generator, _describe_model(generator)
        self._abstract: dict[int, DecodingState] = {}  # by number of rows

    def save(self, path: str | Path, state: DecodingState, context: Sequence[int] = ()):
        """See `save_state`."""
        arrays = _leaves_by_path(state) | {CONTEXT: jnp.asarray(context, jnp.int32)}
        header = {MODEL: json.dumps(self._model)}
        try:
            with atomic_write(Path(path)) as file:
                file.write(save(arrays, metadata=header))
        except OSError as error:
            raise UserError(
                f"cannot write the state {path} ({error.strerror}): name another file"
            ) from error

    def load(self, path: str | Path) -> DecodingState:
        """See `load_state`."""
        arrays, description = _read(path)
        _check_model(path, description, self._model)
        rows = arrays["length"].shape[0]
        if rows not in self._abstract:
            self._abstract[rows] = jax.eval_shape(lambda: self._generator.start(rows))
        expected = _leaves_by_path(self._abstract[rows])
        for name, leaf in expected.items():
            if name not in arrays or (arrays[name].shape, arrays[name].dtype) != (
                leaf.shape,
                leaf.dtype,
            ):
                raise UserError(f"{path} is not a saved state, or is damaged: save it again")
        leaves = [arrays[name] for name in expected]
        return jax.tree.unflatten(jax.tree.structure(self._abstract[rows]), leaves)


def load_context(path: str | Path, state: DecodingState) -> list[int]:
    """The tokens before a saved state with which a `TextStream` continues where another ended.

    Args:
      path: the file.
      state: what `load_state` read from it; of a file without `context`, the result is the tokens
        in the current block of the first row.
    """
    context = _read(path, ("length", CONTEXT))[0][CONTEXT]
    if context.size:
        return context.tolist()
    in_first_block = int(state.length[0]) <= state.block.shape[1]
    begin = 1 if in_first_block else 0  # without `BEGIN`, which is no token of the text
    return np.asarray(state.block)[0, begin : int(state.unread[0]) + 1].tolist()


def _read(
    path: str | Path, names: Sequence[str] | None = None
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Arrays of the file, by default all, and the description of the model that made them."""
    try:
        with safe_open(path, "flax") as file:
            arrays = {name: file.get_tensor(name) for name in names or file.keys()}
            description = json.loads(file.metadata()[MODEL])
        arrays["length"].shape[0], arrays[CONTEXT]
    except OSError as error:
        raise UserError(f"cannot read the state {path} ({error.strerror or error})") from error
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} is not a saved state, or is damaged: save it again") from error
    return arrays, description


def _check_model(path: str | Path, saved: dict[str, Any], here: dict[str, Any]):
    saved = dataclasses.asdict(ModelConfig()) | saved  # it may be older than an option
    different = [name for name in here if saved.get(name) != here[name]]
    if different == ["parameters"]:
        raise UserError(
            f"the state {path} comes from the same architecture with other parameters, perhaps "
            "from an earlier checkpoint: read the text again with this model"
        )
    if different:
        values = (f"{name}: {saved.get(name)} in the file, {here[name]} here" for name in different)
        values = "; ".join(value for value in values if not value.startswith("parameters"))
        raise UserError(
            f"the state {path} comes from another model ({values}): read the text again"
        )


def _describe_model(generator: Generator) -> dict[str, Any]:
    """Architecture and parameter digest. A state is valid only for a model with the same ones."""
    config = dataclasses.asdict(generator.config)
    config = {name: value for name, value in config.items() if name not in NON_ARCHITECTURE_FIELDS}
    config |= {"recurrent_layers": list(generator.config.recurrent_indices)}
    if generator.config.segment_is_context:
        config |= {"segment_length": generator.block_length}
    sums = jax.device_get(jax.jit(_bit_sums)(generator.params))
    digest = hashlib.sha256(json.dumps([int(each) for each in sums]).encode()).hexdigest()
    return config | {"parameters": digest}


def _bit_sums(params: dict[str, Any]) -> list[Num[Array, ""]]:
    """The sum of each array's bits: a checksum that is computed on the device."""
    return [
        jnp.sum(leaf.view(f"uint{8 * leaf.dtype.itemsize}"), dtype=jnp.uint32)
        for leaf in jax.tree.leaves(params)
    ]


def _leaves_by_path(state: DecodingState) -> dict[str, Any]:
    """The leaves by their paths, such as memory/0/cache/keys."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
