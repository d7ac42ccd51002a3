"""Corpora, as documents of tokens."""

import dataclasses
from typing import Literal

from block_recurrent.data.documents import Documents
from block_recurrent.data.embedded import load_standard_library
from block_recurrent.data.text_files import load_text_files
from block_recurrent.errors import UserError


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What `data.…` in a gin file sets.

    Attributes:
      corpus: 'standard_library' (Python's own source, on every machine), or 'text_files' (the
        files of a folder).
      path: the folder of text files.
      glob: which files of the folder, for example '**/*.txt'.
      held_out_per_mille: documents in a thousand kept for evaluation, chosen by their names.
    """

    corpus: Literal["standard_library", "text_files"] = "standard_library"
    path: str | None = None
    glob: str = "**/*"
    held_out_per_mille: int = 20


def load_documents(config: DataConfig) -> dict[str, Documents]:
    """The documents of each split, "train" and "held_out"; opens no document yet.

    Raises:
      UserError: an unknown corpus, or one that is not there.
    """
    if config.corpus == "standard_library":
        if config.path is not None:
            raise UserError(
                f"data.path = '{config.path}' is for data.corpus = 'text_files', but the corpus "
                "is 'standard_library': set the one or leave out the other"
            )
        return load_standard_library(config.held_out_per_mille)
    if config.corpus == "text_files":
        if config.path is None:
            raise UserError("data.corpus = 'text_files' needs a folder: set data.path")
        return load_text_files(config.path, config.glob, config.held_out_per_mille)
    raise UserError(
        f"data.corpus = '{config.corpus}' is unknown: choose 'standard_library' or 'text_files'"
    )
