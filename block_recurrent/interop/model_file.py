"""A model in one safetensors file, with its configuration in the header."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from safetensors.flax import save

from block_recurrent.errors import UserError, first_line
from block_recurrent.fields import check_value
from block_recurrent.files.writing import atomic_write
from block_recurrent.interop.hub import folder_config, model_file
from block_recurrent.model.config import ModelConfig
from block_recurrent.model.transformer import BlockRecurrentTransformer, abstract_model

CONFIG = "block_recurrent.ModelConfig"  # in the header
PRETRAINED = Path(__file__).parents[1] / "pretrained" / "stdlib.safetensors"
ATTACHMENT = "attachment"  # an array of bytes that is no parameter
DTYPES = Literal["float32", "float16", "bfloat16"]


def save_model(
    path: str | Path,
    model: BlockRecurrentTransformer,
    dtype: str = "float32",
    attachment: bytes = b"",
    **about: str,
):
    """Saves a model to a file, atomically. Parameters are named 'layers.0.ffn.hidden.kernel' etc.

    Args:
      path: path of the file.
      model: the model to save.
      dtype: type of the parameters in the file: 'float32', 'float16' or 'bfloat16'.
      attachment: another file to keep in this one, such as the vocabulary's; see `load_attachment`.
      about: more entries for the header, which `load_model` returns.

    Raises:
      UserError: the file cannot be written, or a parameter is too large for `dtype`.
    """
    if not isinstance(model, BlockRecurrentTransformer):
        raise UserError(
            f"model is of type {type(model).__name__}: save_model takes a path, then a "
            "BlockRecurrentTransformer"
        )
    check_value("dtype", dtype, DTYPES)
    _, params = nnx.split(model)
    arrays = {
        _name(keys): _cast(_name(keys), array, dtype)
        for keys, array in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(params))
    }
    if attachment:
        arrays[ATTACHMENT] = jnp.frombuffer(attachment, jnp.uint8)
    header = {CONFIG: json.dumps(dataclasses.asdict(model.config))} | about
    try:
        with atomic_write(Path(path)) as file:
            file.write(save(arrays, metadata=header))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): name another file") from error


def load_model(path: str | Path) -> tuple[BlockRecurrentTransformer, dict[str, str]]:
    """Loads a model that `save_model` or `block_recurrent.export` wrote. None of its code is run.

    Args:
      path: a file; a folder for the Hugging Face Hub, such as a snapshot in the Hub's cache; or the
        name of a repository on the Hub, 'owner/name' (extra ``[hub]``).

    Returns:
      The model, with parameters of its `param_dtype`, and the `about` entries of the header.

    Raises:
      UserError: the file does not exist, or is not a saved model.
    """
    path = model_file(path)
    try:
        with safe_open(path, "flax") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys() if name != ATTACHMENT}
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the model {path} ({first_line(error)})") from error
    try:
        fields = dict(**json.loads(about.pop(CONFIG)))
        config = ModelConfig(**fields | folder_config(path))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} has no valid model configuration ({first_line(error)}): export the model "
            "again with python -m block_recurrent.export"
        ) from error
    try:
        return model_from_arrays(config, arrays, _name), about
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def load_attachment(path: str | Path) -> bytes:
    """The attachment of a model that `save_model` wrote; empty if it has none.

    Args:
      path: see `load_model`.

    Raises:
      UserError: the file cannot be read.
    """
    path = model_file(path)
    try:
        with safe_open(path, "numpy") as file:
            return file.get_tensor(ATTACHMENT).tobytes() if ATTACHMENT in file.keys() else b""
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the model {path} ({first_line(error)})") from error


def model_from_arrays(
    config: ModelConfig,
    params: Mapping[str, ArrayLike],
    name: Callable[[jax.tree_util.KeyPath], str],
) -> BlockRecurrentTransformer:
    """Builds a model from its parameters.

    Args:
      config: the architecture.
      params: arrays by name.
      name: maps a path in the model to the name in `params`.

    Raises:
      UserError: a parameter is missing, unexpected or has another shape.
    """
    graphdef, abstract = abstract_model(config)
    remaining = dict(params)

    def find(keys, expected):
        if name(keys) not in remaining:
            raise UserError(f"the weights lack {name(keys)}, which this configuration needs")
        array = remaining.pop(name(keys))
        if array.shape != expected.shape:
            raise UserError(
                f"{name(keys)} has shape {array.shape}; this configuration needs {expected.shape}"
            )
        return jnp.asarray(array, expected.dtype)

    found = jax.tree_util.tree_map_with_path(find, abstract)
    if remaining:
        raise UserError(
            f"the weights contain {min(remaining)}, which this configuration does not have"
        )
    return nnx.merge(graphdef, found)


def _cast(name: str, array: jax.Array, dtype: str) -> jax.Array:
    cast = jnp.asarray(array, dtype)
    if (jnp.isfinite(array) & ~jnp.isfinite(cast)).any():
        wider = "bfloat16" if dtype == "float16" else "float32"
        raise UserError(
            f"{dtype} ends at {float(jnp.finfo(dtype).max):g}, and {name} has values up to "
            f"{float(jnp.abs(array).max()):g}: choose {wider}"
        )
    return cast


def _name(keys: jax.tree_util.KeyPath) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator=".")
