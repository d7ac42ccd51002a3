"""Vocabularies that prepare_data loads by itself: bytes, and SentencePiece models."""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Integer
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

from block_recurrent.data.prepare.folder_documents import Cut
from block_recurrent.data.vocabularies import END, ByteVocabulary
from block_recurrent.errors import UserError, first_line

T5_VOCABULARY = "https://storage.googleapis.com/t5-data/vocabs/cc_all.32000/sentencepiece.model"
NO_END = (
    "has no end token, but each document needs one: give it an eos_id (for SentencePiece, train "
    "the model with --eos_id=1)"
)


class FileVocabulary(NamedTuple):
    """A vocabulary.

    Attributes:
      kind: 'bytes' or 'sentencepiece'.
      size: number of ids.
      eos: id of the end token.
      encode: the ids of a text.
      cut: where a document may be cut, if its pieces must have the same tokens as the whole text.
      model: content of the file; None for bytes.
    """

    kind: str
    size: int
    eos: int
    encode: Callable[[bytes], Integer[np.ndarray, " length"]]
    cut: Cut
    model: bytes | None = None

    @property
    def described(self) -> dict[str, int | str]:
        """As in plan.json."""
        described = {"kind": self.kind, "size": self.size, "eos": self.eos}
        if self.model is not None:
            described["model"] = hashlib.sha256(self.model).hexdigest()
        return described


def load_file_vocabulary(name: str) -> FileVocabulary:
    """Loads 'bytes', or a SentencePiece model from its path, on disk or in a bucket.

    Raises:
      UserError: the model cannot be loaded, or has no end token.
    """
    if name == ByteVocabulary.name:
        vocabulary = ByteVocabulary()
        return FileVocabulary(name, vocabulary.size, END, vocabulary.encode, "anywhere")
    try:
        model = epath.Path(name).expanduser().read_bytes()
        processor = SentencePieceProcessor(model_proto=model)
        size, end = processor.get_piece_size(), processor.eos_id()
        if not size:
            raise ValueError("no pieces")
    except Exception as error:  # from any file system, protocol buffers or SentencePiece
        raise UserError(
            f"prepare.vocabulary = '{name}' is not a SentencePiece model ({first_line(error)}): "
            f"set it to a .model file (T5's is at {T5_VOCABULARY}) or to 'bytes'"
        ) from error
    if end < 0:
        raise UserError(f"prepare.vocabulary = '{name}' {NO_END}")
    encode = processor.EncodeAsNumpy
    return FileVocabulary("sentencepiece", size, end, encode, cut_for_sentencepiece(model), model)


def cut_for_sentencepiece(model: bytes) -> Cut:
    """Where a document may be cut, if its pieces must have the same tokens as the whole text."""
    parsed = sentencepiece_model_pb2.ModelProto.FromString(model)
    rules = parsed.normalizer_spec
    tokenizes_words_separately = (
        rules.add_dummy_prefix  # the start of a text is tokenized like the start of a word,
        and rules.remove_extra_whitespaces  # a space at the end of a piece gives no token,
        and rules.escape_whitespaces
        and not any("▁" in piece.piece[1:] for piece in parsed.pieces)  # and no token spans words
    )
    return "at_spaces" if tokenizes_words_separately else "nowhere"
