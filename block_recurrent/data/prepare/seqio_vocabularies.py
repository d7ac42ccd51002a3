"""seqio vocabularies: loading, their description in a store, and where documents may be cut."""

import seqio
from sentencepiece import sentencepiece_model_pb2

from block_recurrent.data.prepare.folder_documents import Cut
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.errors import UserError, first_line

T5_VOCABULARY = "https://storage.googleapis.com/t5-data/vocabs/cc_all.32000/sentencepiece.model"


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
        raise UserError(
            f"its {type(vocabulary).__name__} has no end token, but each document needs one: give "
            "it an eos_id (for SentencePiece, train the model with --eos_id=1)"
        )
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
    model = sentencepiece_model_pb2.ModelProto.FromString(vocabulary.sp_model)
    rules = model.normalizer_spec
    tokenizes_words_separately = (
        rules.add_dummy_prefix  # the start of a text is tokenized like the start of a word,
        and rules.remove_extra_whitespaces  # a space at the end of a piece gives no token,
        and rules.escape_whitespaces
        and not any("▁" in piece.piece[1:] for piece in model.pieces)  # and no token spans words
    )
    return "at_spaces" if tokenizes_words_separately else "nowhere"
