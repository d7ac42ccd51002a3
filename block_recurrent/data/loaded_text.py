"""Corpora of text in any format, for training without preparation."""

import tempfile
from pathlib import Path

import numpy as np

from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.documents import ByteDocuments, divide_documents
from block_recurrent.data.formats.corpus import Corpus
from block_recurrent.data.held_out import NamedSplits
from block_recurrent.data.text_files import check_not_empty
from block_recurrent.errors import UserError

MOST_BYTES = 2**30  # of unpacked text, which is kept in memory


def load_text(data: DataConfig) -> dict[str, ByteDocuments]:
    """The documents of a file or folder, as "train" and "held_out", and "test" if there is one.

    Plain text files are read where they lie. All others are unpacked into memory. Documents without
    text are left out. Those of a folder are sorted by name; a file's name is its path in the
    folder, with '/' on every system. See `divide` for what is held out.

    Raises:
      UserError: the text cannot be read, is too much for memory, or is too little to be divided.
    """
    corpus = Corpus(data)
    if corpus.is_plain:
        documents = ByteDocuments({file.name: Path(file.path) for file in corpus.files})
        documents = documents.select(np.flatnonzero(documents.lengths > 1))
        splits = [corpus.splits[name] for name in documents.names]
    else:
        documents, splits = _unpack(corpus)
    check_not_empty(documents.names, data.path, data.glob)
    named = NamedSplits(splits, corpus.named.reason)
    return divide_documents(documents, named, data.held_out_per_mille)


def _unpack(corpus: Corpus) -> tuple[ByteDocuments, list]:
    """All documents, in memory, and the split that each belongs to by its path, or None."""
    texts, splits, room = {}, [], MOST_BYTES
    try:
        for document in corpus.documents():
            pieces = []
            for piece in document.pieces:
                pieces.append(piece)
                room -= len(piece)
                if room < 0:
                    raise _too_large(corpus.data)
            if document.name in texts:
                raise equal_names(document.name)
            if text := b"".join(pieces):
                texts[document.name] = text
                splits.append(document.split)
    except OSError as error:
        raise UserError(
            f"cannot write temporary files to {tempfile.gettempdir()} ({error.strerror}): free "
            "some space, or set the environment variable TMPDIR to another folder"
        ) from error
    if corpus.skipped:
        print(f"{corpus.skipped:,} rows left out (data.skip_bad_rows)")
    return ByteDocuments(texts), splits


def equal_names(name: str) -> UserError:
    """A `UserError` that says that two documents have this name."""
    return UserError(
        f"two documents have the name '{name}': set data.name_field to a field that differs in "
        "all rows, or to None"
    )


def _too_large(data: DataConfig) -> UserError:
    return UserError(
        f"{data.path} has more than {MOST_BYTES // 2**30} GiB of text that must be unpacked or "
        "converted: make a token store (python -m block_recurrent.prepare_data "
        '--gin_file=gin/data/text_files.gin --output=stores/mine --gin_bindings="data.path = '
        f"'{data.path}'\"), and train with data.corpus = 'store', data.stores = ('stores/mine',)"
    )
