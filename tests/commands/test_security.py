"""Untrusted files are data: none of them runs code or leads out of its folder."""

import ast
import contextlib
import gc
import json
import os
import pickle
import re
import shutil
import socket
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import block_recurrent
from block_recurrent import Generator, UserError, load_model, save_model
from block_recurrent.config.run_config import load, load_prepare
from block_recurrent.data.store import open_stores, verify
from block_recurrent.files.checksums import sha256
from block_recurrent.generation.saved_state import load_state
from block_recurrent.interop.model_file import CONFIG
from block_recurrent.training.checkpoints import Checkpoints
from corpus import tiny_run, write_corpus
from runs import SharingTrainer, after_evaluations
from stores import make_store
from tiny import variant_model

PACKAGE = Path(block_recurrent.__file__).parent


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def bomb(tmp_path):
    """A pickled bomb, which must not go off."""
    trace = tmp_path / "it went off"
    dangerous = pickle.dumps(Bomb(trace))
    pickle.loads(dangerous)
    assert trace.exists(), "otherwise the test could not fail"
    trace.unlink()
    yield dangerous
    assert not trace.exists()


# Code


def test_a_saved_state_runs_nothing(bomb, tmp_path):
    generator = Generator(variant_model("fixed_skip"))
    path = tmp_path / "state.safetensors"
    path.write_bytes(bomb)
    with pytest.raises(UserError, match="is not a saved state, or is damaged"):
        load_state(path, generator)


def test_a_model_file_runs_nothing(bomb, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bomb)
    with pytest.raises(UserError, match="cannot read the model"):
        load_model(path)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"dtype": "os.system"}, "choose from 'float32', 'bfloat16'"),
        ({"num_layers": "__import__('os')"}, "must be an integer"),
        ({"gate": "../../gate"}, "choose from 'fixed', 'lstm', 'gru', 'selective'"),
        ({"recurrent_layers": 7}, "must be a tuple"),
        ({"__class__": "os"}, "__class__"),
        ([], "must be a mapping"),
    ],
)
def test_the_header_of_a_model_file_is_data(fields, message, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, variant_model("fixed_skip"))
    path.write_bytes(save({"a": np.zeros(1)}, metadata={CONFIG: json.dumps(fields)}))
    with pytest.raises(UserError, match=message) as error:
        load_model(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run, and the sockets that were listening while it trained."""
    folder = tmp_path_factory.mktemp("run")
    sockets = []

    config = tiny_run(write_corpus(folder / "corpus"), num_steps=1)
    trainer = SharingTrainer(config, folder / "run")
    after_evaluations(trainer, lambda: sockets.extend(listening())).run()
    return folder / "run", config, sockets


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_checkpoint_runs_nothing(bomb, finished, tmp_path):
    """Each file of a checkpoint in turn is replaced by a pickle, which is never executed."""
    run, config, _ = finished
    files = [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    assert len(files) > 5
    setup = SharingTrainer(config, run).setup
    refused = 0
    for path in files:
        copy = tmp_path / "copy"
        shutil.copytree(run, copy)
        (copy / path.relative_to(run)).write_bytes(bomb)
        try:
            with Checkpoints(copy, read_only=True) as checkpoints:
                checkpoints.restore(setup.abstract, setup.lanes.initial_position())
        except Exception:
            refused += 1
        shutil.rmtree(copy)
    gc.collect()  # reads that Orbax has abandoned complain when they are collected
    assert refused


@pytest.mark.slow
def test_nothing_listens_while_a_run_trains(finished):
    assert finished[2] == []


def listening() -> list[str]:
    """The addresses where this process accepts connections, from /proc."""
    mine = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            mine.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
    ]
    return [words[1] for words in lines if words[3] == "0A" and f"socket:[{words[9]}]" in mine]


def test_a_listening_socket_would_be_seen():
    before = listening()
    with socket.create_server(("127.0.0.1", 0)) as server:
        (new,) = set(listening()) - set(before)
        assert int(new.split(":")[1], 16) == server.getsockname()[1]


FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def test_the_source_has_nothing_that_runs_data():
    """No module that unpickles, no evaluation of text, no array that is loaded as a pickle."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                bad = bool(names & FORBIDDEN)
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                bad = called in ("eval", "exec", "__import__")
                bad |= called == "np.load" and "allow_pickle=False" not in ast.unparse(node)
            else:
                continue
            if bad:
                found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert not found


# Paths


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "outside" / "store")


def edit(path: Path, change):
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "..", "a/../../b", "", ".hidden", "a\0b"]
)
@pytest.mark.parametrize("kind", ["splits", "mixture", "files"])
def test_names_in_a_store_stay_in_its_folder(kind, name, store):
    edit(store / "store.json", lambda content: content.setdefault(kind, {}).update({name: {}}))
    for read in (open_stores, lambda folder: list(verify(folder))):
        with pytest.raises(UserError, match="contains the invalid name"):
            read(store)


def test_names_in_a_shard_stay_in_its_folder(store):
    shard = store / "train-00000.json"
    edit(shard, lambda content: content["files"].update({"../secret": {}}))
    written = {"bytes": shard.stat().st_size, "sha256": sha256(shard)}
    edit(store / "store.json", lambda content: content["files"].update({shard.name: written}))
    for read in (open_stores, lambda folder: list(verify(folder))):
        with pytest.raises(UserError, match="contains the invalid name '../secret'"):
            read(store)


@pytest.mark.parametrize(
    "change",
    [
        {"splits": []},
        {"splits": {"train": 3}},
        {"splits": {"train": {}}},
        {"files": None},
        {"files": {}},
        {"vocabulary": {"kind": "sentencepiece"}},
        {"vocabulary": {"kind": "tokenizer", "size": "many", "eos": 0}},
        {"vocabulary": {"kind": "tokenizer", "size": 300, "eos": None}},
        {"vocabulary": None},
        {"mixture": {"part": "heavy"}},
        {"mixture": 7},
    ],
    ids=str,
)
def test_metadata_that_does_not_describe_a_store_is_refused_in_one_line(change, store):
    edit(store / "store.json", lambda content: content.update(change))
    with pytest.raises(UserError) as error:
        open_stores(store)
    message = str(error.value)
    assert str(store) in message and "\n" not in message
    assert "does not describe a token store" in message or "no token store in " in message


def test_lengths_below_zero_are_refused(store):
    """Even with correct checksums."""
    documents, shard = store / "train-00001.documents", store / "train-00001.json"
    table = np.fromfile(documents, "<i8")
    (-table).tofile(documents)
    for described, by in [(documents, shard), (shard, store / "store.json")]:
        written = {"bytes": described.stat().st_size, "sha256": sha256(described)}
        edit(by, lambda content: content["files"].update({described.name: written}))  # noqa: B023
    with pytest.raises(UserError, match="negative"):
        open_stores(store)


# Gin files


def test_a_gin_file_imports_nothing(tmp_path):
    (tmp_path / "evil.gin").write_text("import antigravity\n")
    for read in (load, load_prepare):
        with pytest.raises(UserError, match="evil.gin:1: a gin file cannot import code"):
            read([str(tmp_path / "evil.gin")], [])


@pytest.mark.parametrize(
    "text", ["prepare.module = 'antigravity'", "M = 'os'\nprepare.module = %M"]
)
def test_a_gin_file_names_no_module_to_import(text, tmp_path):
    path = tmp_path / "evil.gin"
    path.write_text(text)
    with pytest.raises(
        UserError, match="a gin file may not set prepare.module, which names code"
    ) as error:
        load_prepare([str(path)], [])
    assert str(error.value).startswith(f"{path}:{len(text.splitlines())}")
    prepare, _ = load_prepare([str(path)], ["prepare.module = 'mine'"])
    assert prepare.module == "mine", "the command line may name it"


# Dependencies


def test_every_dependency_has_an_upper_bound():
    """But for extras of packages that have one already."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))["project"]
    found = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    found = [text for text in found if not re.fullmatch(r"(jax|block_recurrent)\[.+\]", text)]
    assert len(found) > 20
    assert [text for text in found if ",<" not in text] == []
