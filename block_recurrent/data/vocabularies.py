"""Vocabularies: between bytes and token ids."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt16

from block_recurrent.errors import UserError

PADDING = 0  # also what a model reads before a document's first token
END = 1  # the last token of every document
UNKNOWN = 2
SPECIAL = 3  # ids before the first byte


@runtime_checkable
class Vocabulary(Protocol):
    """What the rest of the package asks of a vocabulary; ids are below `size`.

    Attributes:
      size: number of ids.
      name: tells it from any other vocabulary.
    """

    size: int
    name: str

    def encode(self, text: bytes) -> Integer[np.ndarray, " length"]:
        """The ids of `text`, with no end of document."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes that `ids` stand for; special ids stand for none."""


class ByteVocabulary:
    """seqio's ByteVocabulary: byte b is id b + 3, after padding (0), end (1) and unknown (2).

    The size is the paper's 260, one more than is ever used.
    """

    size = 260
    name = "bytes"

    def encode(self, text: bytes) -> UInt16[np.ndarray, " length"]:
        return np.add(np.frombuffer(text, np.uint8), SPECIAL, dtype=np.uint16)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        ids = np.asarray(ids, np.int64)
        is_byte = (ids >= SPECIAL) & (ids < SPECIAL + 256)
        return (ids[is_byte] - SPECIAL).astype(np.uint8).tobytes()


class SentencePieceVocabulary:
    """A SentencePiece model, for example the one of T5 with its 32,000 pieces.

    Args:
      path: the .model file; read when it is needed, which training does not.
      size: of its ids, those that were added to the model's pieces included.
    """

    def __init__(self, path: Path, size: int):
        self.path, self.size = path, size

    @functools.cached_property
    def name(self) -> str:
        digest = hashlib.sha256(self._bytes()).hexdigest()
        return f"sentencepiece-{digest[:16]}-{self.size}"

    def encode(self, text: bytes) -> Integer[np.ndarray, " length"]:
        return np.array(self._model.encode(text.decode("utf-8", "replace")), np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        pieces = [int(i) for i in ids if 0 <= i < self._model.get_piece_size()]
        return self._model.decode(pieces).encode()

    @functools.cached_property
    def _model(self):
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_proto=self._bytes())

    def _bytes(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise UserError(
                f"cannot read the SentencePiece model {self.path} ({error.strerror}): restore it"
            ) from error


class OtherVocabulary:
    """One that only its seqio Task knows: a model can be trained on its ids, and no more.

    Args:
      size: number of ids.
    """

    def __init__(self, size: int):
        self.size, self.name = size, f"other-{size}"

    def encode(self, text: bytes) -> Integer[np.ndarray, " length"]:
        raise self._unknown()

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        raise self._unknown()

    def _unknown(self) -> UserError:
        return UserError(
            "the token store was made with a vocabulary of one's own, which it does not hold: "
            "encode and decode with that, or prepare it with bytes or SentencePiece"
        )


def encode_prompt(
    prompt: bytes, vocabulary: Vocabulary, name: str
) -> Integer[np.ndarray, " length"]:
    """The tokens of a prompt. Raises UserError, which calls it `name`, if characters have none."""
    tokens = vocabulary.encode(prompt)
    if UNKNOWN in tokens:
        characters = sorted(set(prompt.decode("utf-8", "replace")))
        unknown = [one for one in characters if UNKNOWN in vocabulary.encode(one.encode())]
        raise UserError(
            f"{name} has characters that the model's vocabulary lacks: {' '.join(unknown)}"
        )
    return tokens
