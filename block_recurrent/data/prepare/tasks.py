"""The corpora as seqio Tasks.

An example is a document or a piece of one. Its features are "targets" (the tokens),
"targets_pretokenized" (the text before tokenization), "name", and for pieces "continues" (whether
the next example continues the same document).
"""

import difflib
import functools
import importlib
from collections.abc import Callable, Mapping

import seqio
import tensorflow as tf

from block_recurrent.config.data_options import DataConfig, PrepareConfig
from block_recurrent.data.prepare.cuts import cut_for
from block_recurrent.data.prepare.folder_source import FolderSource
from block_recurrent.data.prepare.seqio_vocabularies import SeqioVocabulary, from_seqio
from block_recurrent.data.prepare.source import FOLDER_TASKS
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.data.vocabulary_storage import T5_VOCABULARY, load_vocabulary
from block_recurrent.errors import UserError, first_line

PG19 = ("pg19_bytes", "pg19_tokens")

Preprocessor = Callable[[tf.data.Dataset], tf.data.Dataset]


def register_tasks(prepare: PrepareConfig, data: DataConfig):
    """Registers the Tasks that the configuration has a source for, and those of prepare.module.

    Raises:
      UserError: the vocabulary or the module cannot be loaded.
    """
    seqio.set_tfds_data_dir_override(prepare.tfds_data_dir)
    vocabulary = load_vocabulary(prepare.vocabulary)
    cut = cut_for(vocabulary)
    is_bytes = isinstance(vocabulary, ByteVocabulary)
    vocabulary = seqio.ByteVocabulary() if is_bytes else SeqioVocabulary(vocabulary)
    for name in PG19 + FOLDER_TASKS:
        seqio.TaskRegistry.remove(name)
    pg19 = PG19[0] if is_bytes else PG19[1]
    _register(pg19, _tfds_source("pg19"), vocabulary, _rename_pg19_features)
    for name in FOLDER_TASKS:
        if prepare.tfds:
            texts = functools.partial(_take_text_feature, feature=prepare.tfds_feature)
            _register(name, _tfds_source(prepare.tfds), vocabulary, texts)
        elif data.path:
            choice = data.held_out_per_mille, cut, data.held_out, data.encoding
            source = FolderSource(data.path, name, data.glob, *choice)
            _register(name, source, vocabulary)
    if prepare.module:
        _import_module(prepare.module)


def find_task(prepare: PrepareConfig) -> seqio.Task | seqio.Mixture:
    """The registered Task or Mixture that the configuration names.

    Raises:
      UserError: no Task or Mixture has this name.
    """
    name = prepare.task
    registered = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    if name in registered:
        return seqio.get_mixture_or_task(name)
    known = [*PG19, *FOLDER_TASKS, *registered]
    if name is None:
        raise UserError(
            f"prepare.task is not set: choose from {', '.join(map(repr, dict.fromkeys(known)))}"
        )
    if name in known:
        raise UserError(f"prepare.task = '{name}' {_explain_missing_task(prepare)}")
    near = difflib.get_close_matches(name, known, n=1)
    fix = f"did you mean '{near[0]}'?" if near else "register it in prepare.module"
    raise UserError(f"prepare.task = '{name}' is not a registered seqio Task or Mixture: {fix}")


def tokenize(
    dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
    """Like `seqio.preprocessors.tokenize` for "targets", but without buffering 256 examples.

    Calls SentencePiece directly, which takes half the time of TensorFlow Text.
    """
    vocabulary = output_features["targets"].vocabulary
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        vocabulary = SeqioVocabulary(from_seqio(vocabulary))

    def add_tokens(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        text = example["targets"]
        return example | {"targets_pretokenized": text, "targets": vocabulary.encode_tf(text)}

    return dataset.map(add_tokens)


def _register(
    name: str, source: seqio.DataSource, vocabulary: seqio.Vocabulary, *preprocessors: Preprocessor
):
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[*preprocessors, tokenize],
        output_features={"targets": seqio.Feature(vocabulary)},
        shuffle_buffer_size=None,  # pieces must keep their order
    )


def _tfds_source(name: str) -> seqio.TfdsDataSource:
    """A TFDS dataset: the newest version on disk, unless the name includes a version."""
    return seqio.TfdsDataSource(name if ":" in name else f"{name}:*.*.*", read_only=True)


def _rename_pg19_features(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Renames the features of TFDS's pg19."""
    return dataset.map(
        lambda book: {"name": tf.strings.as_string(book["book_id"]), "targets": book["book_text"]}
    )


def _take_text_feature(dataset: tf.data.Dataset, feature: str) -> tf.data.Dataset:
    """Takes the text from a feature of a TFDS dataset."""
    specs = dataset.element_spec
    texts = [name for name, spec in specs.items() if spec == tf.TensorSpec((), tf.string)]
    if feature not in texts:
        raise UserError(
            f"prepare.tfds_feature = '{feature}' is not text in the TFDS dataset: choose from "
            f"{', '.join(map(repr, texts))}"
        )
    return dataset.map(lambda example: {"targets": example[feature]})


def _import_module(module: str):
    try:
        importlib.import_module(module)
    except Exception as error:  # from the user's code
        raise UserError(
            f"cannot import prepare.module = '{module}' ({first_line(error)}): set it to a "
            "module, in the current folder or on PYTHONPATH, that registers seqio Tasks"
        ) from error


def _explain_missing_task(prepare: PrepareConfig) -> str:
    """Why one of the package's Tasks is not registered, and what to set."""
    if prepare.task == "pg19_tokens":
        return (
            "needs a SentencePiece model: set prepare.vocabulary to its path; the paper uses T5's, "
            f"which is at {T5_VOCABULARY} or gs://{T5_VOCABULARY.partition('.com/')[2]}"
        )
    if prepare.task == "pg19_bytes":
        return (
            f"has bytes as tokens, but prepare.vocabulary = '{prepare.vocabulary}': set that to "
            "'bytes', or set prepare.task = 'pg19_tokens'"
        )
    return "needs a source: set data.path to a folder, or prepare.tfds to a TFDS dataset"
