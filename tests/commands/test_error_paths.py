"""Some test asserts the text of every error message.

The first test finds messages without a test. The others test the messages that no other file does.
"""

import argparse
import ast
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import block_recurrent
from block_recurrent import UserError, load_model, save_model
from block_recurrent.analysis.report import write_analysis
from block_recurrent.analysis.tracing import Text
from block_recurrent.config.options import DistributedConfig, PrepareConfig
from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.prepare.folder_documents import _group, read_pieces
from block_recurrent.data.prepare.quiet_tensorflow import import_tensorflow
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.generate import load_generator
from block_recurrent.interop.model_file import CONFIG
from block_recurrent.parallel.processes import connect
from tiny import variant_model

import_tensorflow()  # before anything else does, which would print

import seqio  # noqa: E402
import tensorflow as tf  # noqa: E402

from block_recurrent.data.prepare.plan import make_plan  # noqa: E402

PACKAGE = Path(block_recurrent.__file__).parent
TESTS = Path(__file__).parents[1]
WORDS = 3  # consecutive words of a message that a test must contain


def messages() -> dict[str, list[str]]:
    """Where each `UserError` is made → all runs of WORDS words of its message, if it has any."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "UserError":
                parts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                words = [part.strip(" :;,.()").split() for part in parts if isinstance(part, str)]
                runs = [
                    " ".join(each[i : i + WORDS])
                    for each in words
                    for i in range(len(each) - WORDS + 1)
                ]
                if runs:
                    found[f"{path.relative_to(PACKAGE)}:{node.lineno}"] = runs
    return found


def test_every_message_is_in_a_test():
    """A run of its words is in the source of a test, which shows that the error is raised."""
    texts = "\n".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("*.py"))
    found = messages()
    assert len(found) > 100
    assert [place for place, runs in found.items() if not any(run in texts for run in runs)] == []


def message_of(function, *arguments) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments)
    message = str(error.value)
    assert "\n" not in message
    return message


# Files that are missing, or in the way


def test_files_that_have_gone(tmp_path):
    gone = tmp_path / "gone"
    assert message_of(ByteDocuments, {"a": gone}) == (
        f"cannot read {gone} (No such file or directory): restore it, or start a new run with the "
        "current files"
    )
    assert message_of(_group, tmp_path, "document", ["gone"]) == (
        f"cannot read {gone} (No such file or directory): restore it, or exclude it with data.glob"
    )
    assert message_of(lambda: list(read_pieces([gone], [1], "anywhere", 10))) == (
        f"cannot read {gone} (No such file or directory): restore it, or run prepare_data again "
        "without it"
    )


def test_a_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "inside"
    text = Text("nothing", np.zeros(8, np.int32), ByteVocabulary())
    assert message_of(write_analysis, folder, variant_model("fixed_skip").config, text, {}, {}) == (
        f"cannot create --output={folder} (Not a directory)"
    )


# Models


def test_weights_of_another_shape(tmp_path):
    path = tmp_path / "model.safetensors"
    model = variant_model("fixed_skip")
    save_model(path, model)
    arrays = load_file(path)
    arrays["layers.0.ffn.hidden.kernel"] = np.zeros((3, 4), np.float32)
    save_file(arrays, path, metadata={CONFIG: json.dumps(dataclasses.asdict(model.config))})
    assert message_of(load_model, path) == (
        f"{path}: layers.0.ffn.hidden.kernel has shape (3, 4); this configuration needs (32, 48)"
    )


def test_a_model_without_a_vocabulary_cannot_generate_text(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, variant_model("fixed_skip"))
    arguments = argparse.Namespace(workdir=None, model=path)
    assert message_of(load_generator, arguments) == (
        f"{path} is not a byte-level model, and the file does not contain its vocabulary: generate "
        "from the run instead, with --workdir"
    )


# Processes


def test_incomplete_options_of_processes():
    for config, process in [
        (DistributedConfig(num_processes=2), None),
        (DistributedConfig(coordinator_address="here:1"), 0),
        (DistributedConfig(), 1),
    ]:
        message = message_of(connect, config, process)
        assert message.startswith("joining other processes needs coordinator_address, num_pr")
        assert "give all three, not (" in message


def test_no_answer_from_the_coordinator(monkeypatch):
    def initialize(**_):
        raise RuntimeError("DEADLINE_EXCEEDED: nobody\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    config = DistributedConfig(coordinator_address="here:1", num_processes=2)
    with pytest.raises(ConnectionError) as error:
        connect(config, 1)
    assert str(error.value).startswith(
        "cannot join the other processes (RuntimeError: DEADLINE_EXCEEDED: nobody): {"
    )


# Tasks


def task(name, *, splits=("train", "validation"), vocabulary=None, rank=1, register=True):
    """A Task of two texts per split; its targets have the given rank."""

    def texts(split, shuffle_files):
        del split, shuffle_files
        return tf.data.Dataset.from_tensor_slices({"targets": ["a b", "c d"]})

    def deepen(dataset):
        return dataset.map(lambda one: one | {"targets": one["targets"][None]})

    feature = seqio.Feature(vocabulary or seqio.ByteVocabulary(), rank=rank, add_eos=False)
    made = seqio.Task(
        name,
        source=seqio.FunctionDataSource(texts, splits),
        preprocessors=[seqio.preprocessors.tokenize, *([deepen] if rank > 1 else [])],
        output_features={"targets": feature},
    )
    if register:
        seqio.TaskRegistry.add_provider(name, made)
    return made


@pytest.fixture(autouse=True)
def registered():
    before = set(seqio.TaskRegistry.names())
    yield
    for name in set(seqio.TaskRegistry.names()) - before:
        seqio.TaskRegistry.remove(name)


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"splits": ("train", "validation", "held_out")},
            "its split 'held_out' has a store's name for 'validation': rename it",
        ),
        ({"register": False}, "it is not registered: add it with seqio.TaskRegistry.add"),
        ({"rank": 2}, "its 'targets' do not have rank 1: make each a sequence of tokens"),
    ],
)
def test_tasks_that_cannot_make_a_store(fields, message):
    made = task("of_errors", **fields)
    assert message_of(make_plan, PrepareConfig(), made) == f"Task of_errors: {message}"


def test_a_mixture_of_different_vocabularies():
    task("of_bytes")
    task("of_others", vocabulary=seqio.ByteVocabulary(extra_ids=5))
    mixture = seqio.Mixture("of_both", [("of_bytes", 1.0), ("of_others", 1.0)])
    assert message_of(make_plan, PrepareConfig(), mixture) == (
        "the Tasks of of_both have different vocabularies: give them the same one"
    )
