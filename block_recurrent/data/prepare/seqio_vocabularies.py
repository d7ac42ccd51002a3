"""Vocabularies of seqio Tasks: the package's own as seqio's, and seqio's as the package's."""

from collections.abc import Sequence

import seqio
import tensorflow as tf

from block_recurrent.data.sentencepiece_vocabulary import SentencePieceVocabulary
from block_recurrent.data.vocabularies import ByteVocabulary, OtherVocabulary, Vocabulary
from block_recurrent.errors import UserError


class SeqioVocabulary(seqio.Vocabulary):
    """A vocabulary of this package for a seqio Task, such as a tokenizer.json::

    output_features={"targets": seqio.Feature(SeqioVocabulary(load_vocabulary(path)))}
    """

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        self.vocabulary = vocabulary

    @property
    def bos_id(self) -> None:
        return None

    @property
    def eos_id(self) -> int:
        return self.vocabulary.end_id

    @property
    def unk_id(self) -> int | None:
        return self.vocabulary.unknown_id

    @property
    def _base_vocab_size(self) -> int:
        return self.vocabulary.size

    def _encode(self, s: str) -> list[int]:
        return self.vocabulary.encode(s.encode()).tolist()

    def _decode(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode(ids).decode("utf-8", "replace")

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(self.vocabulary.encode, [s], tf.int32), [None])

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(self.vocabulary.decode, [ids], tf.string), [])


def from_seqio(vocabulary: seqio.Vocabulary) -> Vocabulary:
    """The vocabulary of a Task as one of this package.

    A SentencePiece model without an end token gets one, after its other ids.

    Raises:
      UserError: a custom vocabulary has no end token.
    """
    if isinstance(vocabulary, SeqioVocabulary):
        return vocabulary.vocabulary
    size, end = vocabulary.vocab_size, vocabulary.eos_id
    has_end = end is not None and 0 <= end < size
    if isinstance(vocabulary, seqio.ByteVocabulary) and size <= ByteVocabulary.size:
        return ByteVocabulary()
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        size, end = (size, end) if has_end else (size + 1, size)
        return SentencePieceVocabulary(vocabulary.sp_model, size, end)
    if not has_end:
        raise UserError(
            f"its {type(vocabulary).__name__} has no end token, but each document needs one: give "
            "it an eos_id"
        )
    return OtherVocabulary(size, end)
