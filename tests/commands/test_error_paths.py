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
from block_recurrent.config.device_options import DistributedConfig
from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.prepare.folder_documents import FileGroup, _group, read_pieces
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.generate import load_generator
from block_recurrent.interop.model_file import CONFIG
from block_recurrent.parallel.processes import connect
from tiny import variant_model

PACKAGE = Path(block_recurrent.__file__).parent
TESTS = Path(__file__).parents[1]
LATEST = {"step": "latest", "weights": "raw", "average": 1}
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
    assert message_of(_group, tmp_path, "document", {"gone": gone}, None) == (
        f"cannot read {gone} (No such file or directory): restore it, or exclude it with data.glob"
    )
    assert message_of(
        lambda: list(read_pieces(FileGroup("a", ["gone"], [1], 0, 1), tmp_path, "anywhere"))
    ) == (
        f"cannot read {gone} (No such file or directory): restore it, or run prepare_data again "
        "without it"
    )


def test_a_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "inside"
    text = Text("nothing", np.zeros(8, np.int32), ByteVocabulary())
    assert message_of(
        write_analysis, folder, variant_model("fixed_skip").config, text, 0, {}, {}
    ) == (f"cannot create --output={folder} (Not a directory)")


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
    arguments = argparse.Namespace(workdir=None, model=path, **LATEST)
    assert message_of(load_generator, arguments) == (
        f"{path} does not contain the model's vocabulary: export the model from its run again, or "
        "generate from the run, with --workdir"
    )


def test_a_model_file_has_no_checkpoints():
    for chosen in {"step": "best"}, {"weights": "averaged"}, {"average": 3}:
        arguments = argparse.Namespace(workdir=None, model="file", **LATEST | chosen)
        assert message_of(load_generator, arguments) == (
            "--step, --weights and --average need --workdir: a model file has one set of weights"
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
