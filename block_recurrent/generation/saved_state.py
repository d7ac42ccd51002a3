"""Save and load decoding states, for example after reading a long document."""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num

from block_recurrent.errors import UserError
from block_recurrent.files.writing import atomic_write
from block_recurrent.generation.decoding import DecodingState
from block_recurrent.generation.generator import Generator
from block_recurrent.model.config import NON_ARCHITECTURE_FIELDS, ModelConfig

MODEL = "model"  # the entry that describes the model
CONTEXT = "text"  # the entry with the last tokens of a stream of text


def save_state(
    path: str | Path, state: DecodingState, generator: Generator, context: Sequence[int] = ()
):
    """Write the state to an .npz file, atomically.

    Args:
      path: the file.
      state: the state of all rows.
      generator: what made the state.
      context: `TextStream.context`, if the text after this state will be streamed.

    Raises:
      UserError: the file cannot be written.
    """
    arrays = {name: _storable(np.asarray(leaf)) for name, leaf in _leaves_by_path(state).items()}
    arrays[CONTEXT] = np.array(context, np.int32)
    arrays[MODEL] = np.array(json.dumps(_describe_model(generator)))
    try:
        with atomic_write(Path(path)) as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise UserError(
            f"cannot write the state {path} ({error.strerror}): name another file"
        ) from error


def load_context(path: str | Path, state: DecodingState) -> list[int]:
    """The tokens before a saved state with which a `TextStream` continues where another ended.

    Args:
      path: the file.
      state: what `load_state` read from it; of a file without `context`, the result is the tokens
        in the current block of the first row.
    """
    with np.load(path, allow_pickle=False) as file:
        if CONTEXT in file and file[CONTEXT].size:
            return file[CONTEXT].tolist()
    in_first_block = int(state.length[0]) <= state.block.shape[1]
    begin = 1 if in_first_block else 0  # without `BEGIN`, which is no token of the text
    return np.asarray(state.block)[0, begin : int(state.unread[0]) + 1].tolist()


def load_state(path: str | Path, generator: Generator) -> DecodingState:
    """Load a state that was saved with the same model.

    Raises:
      UserError: the file cannot be read, or belongs to another model.
    """
    try:
        # np.load(path) would leave a damaged file open.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = dict(file)
        description = json.loads(str(arrays[MODEL]))
    except OSError as error:
        raise UserError(f"cannot read the state {path} ({error.strerror or error})") from error
    except (ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a saved state, or is damaged: save it again") from error
    _check_model(path, description, _describe_model(generator))
    abstract = jax.eval_shape(lambda: generator.start(len(arrays["length"])))
    expected = _leaves_by_path(abstract)
    leaves = [jnp.asarray(arrays[name].view(leaf.dtype)) for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


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


def _storable(array: np.ndarray) -> np.ndarray:
    """View bfloat16 as uint16, because .npz files do not support bfloat16."""
    return array.view(np.uint16) if array.dtype == jnp.bfloat16 else array
