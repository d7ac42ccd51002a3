"""A small PG19: books in TFDS's format on disk, and a SentencePiece model trained on them."""

import random
from pathlib import Path

import numpy as np
import sentencepiece

WORDS = "the state of a block is carried from one window to the next by gates naïve 雪 “so”".split()
TEXT = "one two  three\n\nfour"  # of my_tasks.py
BOOKS = {"train": range(100, 117), "validation": range(20, 25), "test": range(4)}


def text_of(book: int) -> str:
    """The text of a book, about 0.1 to 4 kB."""
    words = random.Random(book).choices(WORDS, k=20 + 40 * (book % 20))
    return " ".join(words).replace("window ", "window\n\n")


def write_books(data_dir: Path, dataset: str = "pg19", splits=BOOKS) -> Path:
    """Writes a dataset with PG19's features and four files per split."""
    import tensorflow_datasets as tfds  # takes seconds

    def examples(books):
        for book in books:
            fields = {"book_title": "A", "publication_date": "1900", "book_link": "http://…"}
            yield book, fields | {"book_id": book, "book_text": text_of(book)}

    class Books(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version("0.1.1")

        def _info(self):
            features = dict.fromkeys(["book_title", "publication_date", "book_link"], np.str_)
            features |= {"book_id": np.int32, "book_text": tfds.features.Text()}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: examples(books) for split, books in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    tfds.disable_progress_bar()
    four_files = tfds.download.DownloadConfig(num_shards=4, try_download_gcs=False)
    Books(data_dir=data_dir).download_and_prepare(download_config=four_files)
    return data_dir


def train_model(path: Path, **options) -> Path:
    """Trains a SentencePiece model like T5's; `options` override its options."""
    texts = (line for book in range(200) for line in text_of(book).splitlines() if line)
    kind = {
        "vocab_size": 200,
        "hard_vocab_limit": False,
        "pad_id": 0,
        "eos_id": 1,
        "unk_id": 2,
        "bos_id": -1,
    }
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=texts, model_writer=file, minloglevel=2, **kind | options
        )
    return path
