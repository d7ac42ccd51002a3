"""A user's module with Tasks, for prepare.module."""

import functools
import time

import seqio
import tensorflow as tf

from books import TEXT

BYTES = seqio.ByteVocabulary()
SLOW = 0.05  # seconds a line


def source_of(split: str, shuffle_files: bool) -> tf.data.Dataset:
    """A document in pieces, a document without text, and a document in one piece."""
    del shuffle_files
    rows = [(f"{split} {TEXT[:5]}", "in pieces", True), (TEXT[5:], "in pieces", False)]
    rows += [("", "empty", False), ("whole", f"last of {split}", False)]
    texts, names, continues = zip(*rows, strict=True)
    columns = {"targets": list(texts), "name": list(names), "continues": list(continues)}
    return tf.data.Dataset.from_tensor_slices(columns)


def without_names(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(lambda example: {"targets": example["targets"]})


def without_end(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(lambda example: example | {"continues": True})


def as_letters(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Tokens of a custom vocabulary: the numbers of the letters."""

    def read(example):
        letters = tf.cast(tf.io.decode_raw(example["targets"], tf.uint8), tf.int32)
        return {"targets": letters, "targets_pretokenized": example["targets"]}

    return dataset.map(read)


def slowly(dataset: tf.data.Dataset) -> tf.data.Dataset:
    def wait(line):
        time.sleep(SLOW)
        return line

    def read(line):
        return {"targets": tf.ensure_shape(tf.numpy_function(wait, [line], tf.string), [])}

    return dataset.map(read)


def add(name: str, source: seqio.DataSource, *preprocessors, key="targets", vocabulary=BYTES):
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=preprocessors,
        output_features={key: seqio.Feature(vocabulary)},
    )


tokenize = seqio.preprocessors.tokenize
pieces = seqio.FunctionDataSource(source_of, splits=("train", "validation"))
lines = seqio.TextLineDataSource({"train": "lines/*.txt", "validation": "lines/0.txt"})
add("pieces", pieces, tokenize)
add("whole", pieces, without_names, tokenize, seqio.preprocessors.append_eos)
add("slow_lines", lines, slowly, tokenize)
add("letters", pieces, as_letters, vocabulary=seqio.PassThroughVocabulary(300, eos_id=2))
books = seqio.TfdsDataSource(
    "pg19:0.1.1", splits={"train": "train[:80%]", "validation": "train[80%:]"}
)
text_of_books = functools.partial(seqio.preprocessors.rekey, key_map={"targets": "book_text"})
add("books", books, text_of_books, tokenize)
seqio.MixtureRegistry.add("both", [("pieces", 1), ("slow_lines", 3)])

# Mistakes
add("without_text", pieces, functools.partial(tokenize, copy_pretokenized=False))
add("without_tokens", pieces)
add("without_targets", pieces, tokenize, key="inputs")
add("few_letters", pieces, as_letters, vocabulary=seqio.PassThroughVocabulary(100, eos_id=2))
add("without_end_token", pieces, as_letters, vocabulary=seqio.PassThroughVocabulary(300))
add("without_end", pieces, without_end, tokenize)
add("without_validation", seqio.TfdsDataSource("pg19:0.1.1", splits=("train", "test")), tokenize)
add("without_tfds", seqio.TfdsDataSource("my_books:1.0.0"), tokenize)
