"""seqio's vocabularies: loaded by name, and what a token store and its documents need of them."""

import seqio
from sentencepiece import sentencepiece_model_pb2

from block_recurrent.data.prepare.pieces import Cut
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.errors import UserError, first_line

T5_VOCABULARY = "https://storage.googleapis.com/t5-data/vocabs/cc_all.32000/sentencepiece.model"


def load_vocabulary(name: str) -> seqio.Vocabulary:
    """'bytes', or a SentencePiece model by its path. Raises UserError if it cannot be read."""
    if name == "bytes":
        return seqio.ByteVocabulary()
    vocabulary = seqio.SentencePieceVocabulary(name)
    try:
        vocabulary.load_model()
    except Exception as error:  # of TensorFlow's files, of protocol buffers or of SentencePiece
        raise UserError(
            f"prepare.vocabulary = '{name}' is no SentencePiece model ({first_line(error)}): name "
            f"a .model file (the one of T5 is at {T5_VOCABULARY}), or 'bytes'"
        ) from error
    return vocabulary


def describe_vocabulary(vocabulary: seqio.Vocabulary) -> dict[str, str | int]:
    """Its kind, as token stores name it, its size, and the id of the end of a document.

    Raises:
      UserError: there is no such id, or no size.
    """
    size, end = vocabulary.vocab_size, vocabulary.eos_id
    if end is None or not 0 <= end < size:
        raise UserError(
            f"its {type(vocabulary).__name__} has no end token, which documents need: give it an "
            "eos_id (train a SentencePiece model with --eos_id=1)"
        )
    if isinstance(vocabulary, seqio.ByteVocabulary) and size <= ByteVocabulary.size:
        return {"kind": "bytes", "size": ByteVocabulary.size, "eos": end}
    kind = "sentencepiece" if isinstance(vocabulary, seqio.SentencePieceVocabulary) else "other"
    return {"kind": kind, "size": size, "eos": end}


def cut_for(vocabulary: seqio.Vocabulary) -> Cut:
    """Where documents may be cut, so that the tokens of the pieces are those of the whole."""
    if isinstance(vocabulary, seqio.ByteVocabulary):
        return "anywhere"
    if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return "nowhere"
    model = sentencepiece_model_pb2.ModelProto.FromString(vocabulary.sp_model)
    rules = model.normalizer_spec
    takes_words_alone = (
        rules.add_dummy_prefix  # the beginning of a text is that of a word,
        and rules.remove_extra_whitespaces  # the space before it stands for nothing,
        and rules.escape_whitespaces
        and not any("▁" in piece.piece[1:] for piece in model.pieces)  # and no token spans words
    )
    return "at_spaces" if takes_words_alone else "nowhere"
