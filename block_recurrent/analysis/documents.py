"""The texts that are analyzed."""

import codecs
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from block_recurrent.data.vocabularies import Vocabulary
from block_recurrent.errors import UserError


class Document(NamedTuple):
    """A text.

    Attributes:
      name: what it is called in messages and on pages.
      tokens: all of its tokens.
      option: the option of the command line that chooses it.
    """

    name: str
    tokens: Integer[np.ndarray, " T"]
    option: str = "--text_file"

    def first(self, limit: int | None, least: int) -> Integer[np.ndarray, " T"]:
        """The first `limit` tokens; None: all.

        Raises:
          UserError: they are fewer than `least`.
        """
        tokens = self.tokens if limit is None else self.tokens[: max(limit, 0)]
        if len(tokens) >= least:
            return tokens
        block = f", less than one block of {least}" if least > 1 else ""
        advice = f"give a longer text with {self.option}"
        if len(tokens) < len(self.tokens):
            advice += ", or a larger --max_tokens"
        raise UserError(f"{self.name} has only {len(tokens)} tokens{block}: {advice}")


def read_document(path: Path, vocabulary: Vocabulary, option: str = "--text_file") -> Document:
    """Reads a file as text, without a byte-order mark.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise UserError(f"cannot read {option}={path} ({error.strerror})") from error
    return Document(str(path), vocabulary.encode(content), option)
