"""Decoding states on disk, to go on from: a long document is read once."""

import dataclasses
import hashlib
import json
import zipfile
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
from block_recurrent.model.config import NON_ARCHITECTURE_FIELDS

MODEL = "model"  # the entry that says which model the state is of


def save_state(path: Path, state: DecodingState, generator: Generator):
    """Writes an .npz file, whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    arrays = {name: _bits(np.asarray(leaf)) for name, leaf in _named(state).items()}
    arrays[MODEL] = np.array(json.dumps(_description(generator)))
    try:
        with atomic_write(path) as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise UserError(
            f"cannot write the state {path} ({error.strerror}): name another file"
        ) from error


def load_state(path: Path, generator: Generator) -> DecodingState:
    """A saved state of the same model.

    Raises:
      UserError: there is none, or it is another model's.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        description = json.loads(str(arrays[MODEL]))
    except OSError as error:
        raise UserError(f"cannot read the state {path} ({error.strerror or error})") from error
    except (ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no saved state, or is damaged: save it again") from error
    _check_model(path, description, _description(generator))
    abstract = jax.eval_shape(lambda: generator.start(len(arrays["length"])))
    leaves = [jnp.asarray(arrays[name].view(leaf.dtype)) for name, leaf in _named(abstract).items()]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def _check_model(path: Path, saved: dict[str, Any], here: dict[str, Any]):
    different = [name for name in here if saved.get(name) != here[name]]
    if different == ["parameters"]:
        raise UserError(
            f"the state {path} is of the same architecture with other parameters, perhaps an "
            "earlier checkpoint's: read the text again with this one"
        )
    if different:
        values = (f"{name}: {saved.get(name)} in the file, {here[name]} here" for name in different)
        values = "; ".join(value for value in values if not value.startswith("parameters"))
        raise UserError(f"the state {path} is another model's ({values}): read the text again")


def _description(generator: Generator) -> dict[str, Any]:
    """What must be equal for a state to mean the same: the architecture and the parameters."""
    config = dataclasses.asdict(generator.config)
    config = {name: value for name, value in config.items() if name not in NON_ARCHITECTURE_FIELDS}
    config |= {"recurrent_layers": list(generator.config.recurrent_indices)}
    if generator.config.segment_is_context:
        config |= {"segment_length": generator.block_length}
    sums = jax.device_get(jax.jit(_sums)(generator.params))
    digest = hashlib.sha256(json.dumps([int(one) for one in sums]).encode()).hexdigest()
    return config | {"parameters": digest}


def _sums(params: dict[str, Any]) -> list[Num[Array, ""]]:
    """The sum of each array's bits: as good as a checksum of gigabytes, and where they are."""
    bits = (jax.lax.bitcast_convert_type(leaf, jnp.uint32) for leaf in jax.tree.leaves(params))
    return [jnp.sum(leaf, dtype=jnp.uint32) for leaf in bits]


def _named(state: DecodingState) -> dict[str, Any]:
    """The leaves by their paths, as memory/0/cache/keys."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _bits(array: np.ndarray) -> np.ndarray:
    """NumPy's files know no bfloat16."""
    return array.view(np.uint16) if array.dtype == jnp.bfloat16 else array
