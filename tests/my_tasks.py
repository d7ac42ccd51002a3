"""What a user's module of Tasks looks like; prepare.module names it."""

import functools
import time

import seqio
import tensorflow as tf

TEXT = "one two  three\n\nfour"
SLOW = 0.05  # seconds a line


def source_of(split: str, shuffle_files: bool) -> tf.data.Dataset:
    """A document in pieces, one without text, and one that is whole."""
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


def slowly(dataset: tf.data.Dataset) -> tf.data.Dataset:
    def wait(line):
        time.sleep(SLOW)
        return line

    def read(line):
        return {"targets": tf.ensure_shape(tf.numpy_function(wait, [line], tf.string), [])}

    return dataset.map(read)


def add(name: str, source: seqio.DataSource, *preprocessors, key: str = "targets"):
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=preprocessors,
        output_features={key: seqio.Feature(seqio.ByteVocabulary())},
    )


tokenize = seqio.preprocessors.tokenize
pieces = seqio.FunctionDataSource(source_of, splits=("train", "validation"))
lines = seqio.TextLineDataSource({"train": "lines/*.txt", "validation": "lines/0.txt"})
add("pieces", pieces, tokenize)
add("whole", pieces, without_names, tokenize, seqio.preprocessors.append_eos)
add("slow_lines", lines, slowly, tokenize)
seqio.MixtureRegistry.add("both", [("pieces", 1), ("slow_lines", 3)])

# Mistakes
add("without_text", pieces, functools.partial(tokenize, copy_pretokenized=False))
add("without_tokens", pieces)
add("without_targets", pieces, tokenize, key="inputs")
add("without_end", pieces, without_end, tokenize)
add("without_validation", seqio.TfdsDataSource("pg19:0.1.1", splits=("train", "test")), tokenize)
add("without_tfds", seqio.TfdsDataSource("my_books:1.0.0"), tokenize)
