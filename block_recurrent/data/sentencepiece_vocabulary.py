"""SentencePiece models as vocabularies, with the ids that their trainer gave them."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from block_recurrent.data.vocabulary_file import VocabularyFile
from block_recurrent.errors import UserError, first_line
from block_recurrent.files.paths import AnyPath

FIX = "name a .model file that SentencePiece has trained"


class SentencePieceVocabulary:
    """A SentencePiece model, such as T5's with 32,000 pieces.

    Args:
      source: the .model file or its content. A file is read when it is first needed; training does
        not need it.
      size: number of ids; None: those of the model, and one for the end if it has none.
      end_id: the last token of every document; None: the model's </s>, or else the id after all
        pieces.
    """

    kind = "sentencepiece"

    def __init__(self, source: AnyPath | bytes, size: int | None = None, end_id: int | None = None):
        self.file = VocabularyFile(source)
        self._size, self._end_id = size, end_id

    @functools.cached_property
    def size(self) -> int:
        return self._size or max(self._model.get_piece_size(), self.end_id + 1)

    @functools.cached_property
    def end_id(self) -> int:
        if self._end_id is not None:
            return self._end_id
        found = self._model.eos_id()
        return found if found >= 0 else self._model.get_piece_size()

    @functools.cached_property
    def unknown_id(self) -> int:
        return self._model.unk_id()

    @functools.cached_property
    def name(self) -> str:
        return f"sentencepiece-{self.file.digest}-{self.size}"

    def encode(self, text: bytes) -> Integer[np.ndarray, " length"]:
        return self._model.encode(text, return_type="numpy")  # invalid UTF-8 becomes U+FFFD

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        ids = np.asarray(ids, np.int64).reshape(-1)
        known = (ids >= 0) & (ids < self._model.get_piece_size()) & (ids != self.end_id)
        ids = ids[known].tolist()
        text = self._model.decode(ids)
        if "\ufffd" not in text:
            return text.encode()
        # Pieces of single bytes that are no character, or not yet one.
        pieces = self._model.decode(ids, return_type="proto").pieces
        return b"".join(self._bytes.get(piece.id) or piece.surface.encode() for piece in pieces)

    @functools.cached_property
    def _bytes(self) -> dict[int, bytes]:
        """The byte of each piece that stands for one."""
        model = self._model
        pieces = filter(model.is_byte, range(model.get_piece_size()))
        return {piece: bytes([int(model.id_to_piece(piece)[1:-1], 16)]) for piece in pieces}

    @functools.cached_property
    def _model(self):
        from sentencepiece import SentencePieceProcessor

        try:
            model = SentencePieceProcessor(model_proto=self.file.content)
        except RuntimeError as error:
            raise UserError(
                f"{self.file} is not a SentencePiece model ({first_line(error)}): {FIX}"
            ) from error
        if not model.get_piece_size():
            raise UserError(f"{self.file} is not a SentencePiece model (it has no pieces): {FIX}")
        return model
