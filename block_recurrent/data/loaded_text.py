"""Corpora of text in any format, for training without preparation."""

import tempfile
from pathlib import Path

from block_recurrent.config.options import DataConfig
from block_recurrent.data.documents import ByteDocuments, split_held_out
from block_recurrent.data.formats.corpus import Corpus
from block_recurrent.data.text_files import check_number_of_documents, load_text_files
from block_recurrent.errors import UserError

MOST_BYTES = 2**30  # of unpacked text, which is kept in memory


def load_text(data: DataConfig) -> dict[str, ByteDocuments]:
    """The documents of a file or folder, as "train" and "held_out"; see `split_held_out`.

    Plain text files are read where they lie. All others are unpacked into memory. Documents without
    text are left out.

    Raises:
      UserError: the text cannot be read, is too much for memory, or has fewer than two documents.
    """
    corpus = Corpus(data)
    if corpus.is_plain and Path(data.path).expanduser().is_dir():
        return load_text_files(data.path, data.glob, data.held_out_per_mille)
    try:
        documents = ByteDocuments(_unpack(corpus))
    except OSError as error:
        raise UserError(
            f"cannot write temporary files to {tempfile.gettempdir()} ({error.strerror}): free "
            "some space, or set the environment variable TMPDIR to another folder"
        ) from error
    check_number_of_documents(documents.names, data.path, data.glob)
    return split_held_out(documents, data.held_out_per_mille)


def _unpack(corpus: Corpus) -> dict[str, bytes]:
    texts, room = {}, MOST_BYTES
    for document in corpus.documents():
        pieces = []
        for piece in document.pieces:
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                raise _too_large(corpus.data)
        if document.name in texts:
            raise UserError(
                f"two documents have the name '{document.name}': set data.name_field to a field "
                "that differs in all rows, or to None"
            )
        if text := b"".join(pieces):
            texts[document.name] = text
    return texts


def _too_large(data: DataConfig) -> UserError:
    return UserError(
        f"{data.path} has more than {MOST_BYTES // 2**30} GiB of text in files that must be "
        "unpacked: make a token store (python -m block_recurrent.prepare_data "
        '--gin_file=gin/data/text_files.gin --output=stores/mine --gin_bindings="data.path = '
        f"'{data.path}'\"), and train with data.corpus = 'store', data.stores = ('stores/mine',)"
    )
