"""Vocabularies, which convert between bytes and token ids."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt16

from block_recurrent.errors import UserError

PADDING = 0  # the input at padding and at the start of a document, in every vocabulary
NUM_SPECIAL = 3  # number of ids before that of byte 0 in `ByteVocabulary`


@runtime_checkable
class Vocabulary(Protocol):
    """The interface of vocabularies.

    Attributes:
      kind: what it is, as written in a store: 'bytes', 'sentencepiece', 'tokenizer' or 'other'.
      size: number of ids, which are 0 … size − 1.
      name: unique to this vocabulary.
      end_id: the last token of every document, where generation stops.
      unknown_id: the token of characters that the vocabulary lacks; None if it lacks none.
    """

    kind: str
    size: int
    name: str
    end_id: int
    unknown_id: int | None

    def encode(self, text: bytes) -> Integer[np.ndarray, " length"]:
        """The ids of `text`, without an end token."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of `ids`, which may end inside a character; special ids are dropped."""


class ByteVocabulary:
    """seqio's ByteVocabulary: byte b is id b + 3, after padding (0), end (1) and unknown (2).

    The size is 260 as in the paper; the last id and that of unknown are never used.
    """

    kind = name = "bytes"
    size = 260
    end_id = 1
    unknown_id = None

    def encode(self, text: bytes) -> UInt16[np.ndarray, " length"]:
        return np.add(np.frombuffer(text, np.uint8), NUM_SPECIAL, dtype=np.uint16)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        ids = np.asarray(ids, np.int64)
        is_byte = (ids >= NUM_SPECIAL) & (ids < NUM_SPECIAL + 256)
        return (ids[is_byte] - NUM_SPECIAL).astype(np.uint8).tobytes()


class OtherVocabulary:
    """A custom vocabulary of a seqio Task, with which text cannot be encoded or decoded here.

    Args:
      size: number of ids.
      end_id: the last token of every document.
    """

    kind = "other"
    unknown_id = None

    def __init__(self, size: int, end_id: int):
        self.size, self.end_id, self.name = size, end_id, f"other-{size}"

    def encode(self, text: bytes) -> Integer[np.ndarray, " length"]:
        raise self._unknown()

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        raise self._unknown()

    def _unknown(self) -> UserError:
        return UserError(
            "the token store has a custom vocabulary, with which text can be neither encoded nor "
            "decoded here: use your own code for that, or prepare the store with bytes, a "
            "SentencePiece model or a tokenizer.json"
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
    tokens, unknown_id = vocabulary.encode(prompt), vocabulary.unknown_id
    if unknown_id is not None and unknown_id in tokens:
        characters = sorted(set(prompt.decode("utf-8", "replace")))
        unknown = [one for one in characters if unknown_id in vocabulary.encode(one.encode())]
        raise UserError(
            f"{name} has characters that are not in the model's vocabulary ({' '.join(unknown)}): "
            "remove or replace them"
        )
    return tokens
