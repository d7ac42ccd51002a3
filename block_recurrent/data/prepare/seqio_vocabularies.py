"""seqio vocabularies: loading, their description in a store, and where documents may be cut."""

import seqio

from block_recurrent.data.prepare.file_vocabularies import (
    NO_END,
    T5_VOCABULARY,
    cut_for_sentencepiece,
)
from block_recurrent.data.prepare.folder_documents import Cut
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.errors import UserError, first_line


def load_vocabulary(name: str) -> seqio.Vocabulary:
    """Loads 'bytes', or a SentencePiece model from its path.

    Raises:
      UserError: the model cannot be loaded.
    """
    if name == "bytes":
        return seqio.ByteVocabulary()
    vocabulary = seqio.SentencePieceVocabulary(name)
    try:
        vocabulary.load_model()
    except Exception as error:  # from TensorFlow's file system, protocol buffers or SentencePiece
        raise UserError(
            f"prepare.vocabulary = '{name}' is not a SentencePiece model ({first_line(error)}): "
            f"set it to a .model file (T5's is at {T5_VOCABULARY}) or to 'bytes'"
        ) from error
    return vocabulary


def describe_vocabulary(vocabulary: seqio.Vocabulary) -> dict[str, str | int]:
    """The kind of vocabulary (as in store.json), its size, and the id of its end token.

    Raises:
      UserError: the vocabulary has no end token.
    """
    size, end = vocabulary.vocab_size, vocabulary.eos_id
    if end is None or not 0 <= end < size:
        raise UserError(f"its {type(vocabulary).__name__} {NO_END}")
    if isinstance(vocabulary, seqio.ByteVocabulary) and size <= ByteVocabulary.size:
        return {"kind": "bytes", "size": ByteVocabulary.size, "eos": end}
    kind = "sentencepiece" if isinstance(vocabulary, seqio.SentencePieceVocabulary) else "other"
    return {"kind": kind, "size": size, "eos": end}


def cut_for(vocabulary: seqio.Vocabulary) -> Cut:
    """Where a document may be cut, if its pieces must have the same tokens as the whole text."""
    if isinstance(vocabulary, seqio.ByteVocabulary):
        return "anywhere"
    if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return "nowhere"
    return cut_for_sentencepiece(vocabulary.sp_model)
