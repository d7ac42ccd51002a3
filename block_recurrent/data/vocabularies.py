"""Vocabularies, which convert between bytes and token ids."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt16

from block_recurrent.errors import UserError

PADDING = 0  # also the first input of a document
END = 1  # the last token of every document
UNKNOWN = 2
NUM_SPECIAL = 3  # number of ids before that of byte 0


@runtime_checkable
class Vocabulary(Protocol):
    """The interface of vocabularies.

    Attributes:
      size: number of ids, which are 0 … size − 1.
      name: unique to this vocabulary.
    """

    size: int
    name: str

    def encode(self, text: bytes) -> Integer[np.ndarray, " length"]:
        """The ids of `text`, without an end token."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of `ids`; special ids are dropped."""


class ByteVocabulary:
    """seqio's ByteVocabulary: byte b is id b + 3, after padding (0), end (1) and unknown (2).

    The size is 260 as in the paper; the last id is never used.
    """

    size = 260
    name = "bytes"

    def encode(self, text: bytes) -> UInt16[np.ndarray, " length"]:
        return np.add(np.frombuffer(text, np.uint8), NUM_SPECIAL, dtype=np.uint16)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        ids = np.asarray(ids, np.int64)
        is_byte = (ids >= NUM_SPECIAL) & (ids < NUM_SPECIAL + 256)
        return (ids[is_byte] - NUM_SPECIAL).astype(np.uint8).tobytes()


class SentencePieceVocabulary:
    """A SentencePiece model, such as T5's with 32,000 pieces.

    Args:
      path: the .model file. It is read when it is first needed; training does not need it.
      size: number of ids, including those added to the model's pieces.
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
    """A custom vocabulary of a seqio Task, with which text cannot be encoded or decoded here.

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
            "the token store has a custom vocabulary, with which text can be neither encoded nor "
            "decoded here: use your own code for that, or prepare the store with bytes or a "
            "SentencePiece model"
        )


def encode_prompt(
    prompt: bytes, vocabulary: Vocabulary, name: str
) -> Integer[np.ndarray, " length"]:
    """The tokens of a prompt.

    Args:
      prompt: text in UTF-8.
      vocabulary: vocabulary of the model.
      name: name of the prompt in the error message.

    Raises:
      UserError: the vocabulary lacks characters of the prompt.
    """
    tokens = vocabulary.encode(prompt)
    if UNKNOWN in tokens:
        characters = sorted(set(prompt.decode("utf-8", "replace")))
        unknown = [one for one in characters if UNKNOWN in vocabulary.encode(one.encode())]
        raise UserError(
            f"{name} has characters that are not in the model's vocabulary ({' '.join(unknown)}): "
            "remove or replace them"
        )
    return tokens
