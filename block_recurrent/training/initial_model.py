"""The parameters that a run begins with, where they come from a file."""

import dataclasses
from typing import Any

from flax import nnx

from block_recurrent.errors import UserError
from block_recurrent.interop.model_file import load_model
from block_recurrent.model.config import NON_ARCHITECTURE_FIELDS, ModelConfig

FREE = (
    *NON_ARCHITECTURE_FIELDS,
    "window_length",
    "dtype",
)  # in which a model of the same parameters may differ


def initial_params(path: str, config: ModelConfig) -> dict[str, Any]:
    """The parameters of the file, for a model of this configuration.

    Raises:
      UserError: there is no such file, or it holds a model of another architecture.
    """
    model, _ = load_model(path)
    for name in (field.name for field in dataclasses.fields(config)):
        found, wanted = getattr(model.config, name), getattr(config, name)
        if name not in FREE and found != wanted:
            raise UserError(
                f"train.initial_model = '{path}' has {name} = {found!r}, and this run {wanted!r}: "
                f"set BlockRecurrentTransformer.{name} = {found!r}"
            )
    return nnx.to_pure_dict(nnx.split(model)[1])
