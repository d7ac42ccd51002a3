"""A folder for the Hugging Face Hub: what is in it, and that it comes back, also from the cache."""

import argparse
import dataclasses
import json
import shutil
import sys

import huggingface_hub
import jax
import numpy as np
import pytest
import tokenizers
from flax import nnx

import block_recurrent.export
from block_recurrent import (
    BlockRecurrentTransformer,
    UserError,
    load_model,
    model_vocabulary,
    save_model,
)
from block_recurrent.data.tokenizer_vocabulary import TokenizerVocabulary
from block_recurrent.data.vocabulary_storage import describe_for_model
from block_recurrent.generate import load_generator
from block_recurrent.model.transformer import parameters
from block_recurrent.reporting.metrics_log import MetricsLog
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.hub_folder import HubModel, write_hub_folder
from block_recurrent.training.trainer import Trainer
from block_recurrent.training.workdir import load_run, record_config
from corpus import tiny_run, write_corpus
from tiny import TINY
from vocabularies import byte_level_tokenizer

SMALLEST = dataclasses.replace(TINY, num_layers=1, recurrent_layers=())
ABOUT = {"segment_length": "32", "step": "0", "weights": "raw", "average": "1"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run before its first step, and after an evaluation."""
    place = tmp_path_factory.mktemp("place")
    config = dataclasses.replace(tiny_run(write_corpus(place / "texts")), model=SMALLEST)
    trainer = Trainer(config, place / "run")
    record_config(place / "run", trainer.config)
    with Checkpoints(place / "run") as checkpoints:
        checkpoints.save(*trainer.start(checkpoints))
    with MetricsLog(place / "run", resume_step=None) as log:
        log.write(0, "held_out", {"bits_per_byte": 8.125, "loss": 5.5, "accuracy": float("nan")})
    return place / "run"


def export(monkeypatch, run, folder, *more):
    arguments = [f"--workdir={run}", "--format=hub", f"--output={folder}", *more]
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    block_recurrent.export.main()
    return folder


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return export(patch, run, tmp_path_factory.mktemp("hub") / "my-model")


def assert_same_model(path, run):
    model, about = load_model(path)
    expected = load_run(run).model
    assert model.config == expected.config and about["segment_length"] == "32"
    jax.tree.map(np.testing.assert_array_equal, parameters(model), parameters(expected))


def test_what_is_in_the_folder(run, folder):
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "block_recurrent" and config["model"]["num_layers"] == 1
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.library_name == "block_recurrent"
    assert card.data.pipeline_tag == "text-generation"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("bits_per_byte", 8.125)
    assert result.dataset_type == "text_files" and result.dataset_split == "held_out"
    assert "| bits per byte | 8.1250 |" in card.text and 'load_model("OWNER/NAME")' in card.text
    assert list(folder.parent.iterdir()) == [folder]


def test_weights_that_were_not_evaluated(run, tmp_path, monkeypatch):
    with MetricsLog(run, resume_step=None) as log:
        log.write(9, "held_out", {"bits_per_byte": 8.0})
        folder = export(monkeypatch, run, tmp_path / "hub")
        log.write(0, "held_out", {"bits_per_byte": 8.125})
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.eval_results is None and "`--step=0`" in card.text


def test_the_folder_is_taken_back(run, folder):
    assert_same_model(folder, run)
    arguments = argparse.Namespace(
        workdir=None, model=folder, step="latest", weights="raw", average=1
    )
    generator, vocabulary = load_generator(arguments)
    assert generator.config.num_layers == 1 and vocabulary.name == "bytes"


@pytest.fixture
def cache(folder, tmp_path, monkeypatch):
    """The Hub's cache without a network; it has the snapshot of a repository, owner/name."""
    repository, commit = tmp_path / "models--owner--name", "0123456789abcdef" * 2 + "01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    shutil.copytree(folder, repository / "snapshots" / commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return repository / "snapshots" / commit


def test_the_cache_of_the_hub(run, cache):
    assert_same_model("owner/name", run)
    assert_same_model(cache, run)
    _, about = load_model("owner/name")
    assert model_vocabulary("owner/name", about).name == "bytes"


def test_a_tokenizer_goes_along(tmp_path):
    content = byte_level_tokenizer(("<pad>", "</s>")).to_str().encode()
    vocabulary = TokenizerVocabulary(content)
    model = BlockRecurrentTransformer(SMALLEST, vocab_size=vocabulary.size, rngs=nnx.Rngs(0))
    about = ABOUT | describe_for_model(vocabulary)
    exported = HubModel(model, tiny_run(tmp_path), about, content, None)
    write_hub_folder(tmp_path / "hub", exported)
    found = model_vocabulary(tmp_path / "hub", load_model(tmp_path / "hub")[1])
    text = "the state of a block"
    ids = found.encode(text.encode()).tolist()
    assert ids == vocabulary.encode(text.encode()).tolist()
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "hub/tokenizer.json"))
    assert other.encode(text, add_special_tokens=False).ids == ids


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_config_json_can_be_edited(folder, tmp_path):
    mine = shutil.copytree(folder, tmp_path / "mine")
    edit(mine, lambda config: config["model"].update(dtype="bfloat16"))
    assert load_model(mine)[0].config.dtype == "bfloat16"
    edit(mine, lambda config: config["model"].update(dtyp="bfloat16"))
    with pytest.raises(UserError, match="no field 'dtyp': did you mean dtype"):
        load_model(mine)
    edit(mine, lambda config: config.pop("model"))
    with pytest.raises(UserError, match="no valid model configuration"):
        load_model(mine)
    edit(mine, lambda config: config.update(model_type="llama"))  # not ours
    assert load_model(mine)[0].config.dtype == "float32"


def test_nothing_is_overwritten_or_half_written(run, folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="my-model exists: name a new folder"):
        export(monkeypatch, run, folder)
    with pytest.raises(UserError, match="no folder .*missing for --output=.*: create it first"):
        export(monkeypatch, run, tmp_path / "missing/hub")
    model = BlockRecurrentTransformer(SMALLEST, rngs=nnx.Rngs(0))
    model.final_norm.scale[...] = model.final_norm.scale[...].at[0].set(7e4)
    exported = HubModel(model, tiny_run(tmp_path), ABOUT | {"vocabulary": "bytes"}, b"", None)
    with pytest.raises(UserError, match="float16 ends at 65504"):
        write_hub_folder(tmp_path / "hub", exported, "float16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, message",
    [
        ("owner/other", "no file or folder owner/other, and it cannot be loaded from the Hug"),
        ("owner/a/b", "cannot read the model owner/a/b"),
        ("models/mine.safetensors", "cannot read the model models/mine.safetensors"),
        ("nowhere", "cannot read the model nowhere"),
        ("n" * 300, "cannot read the model nnn"),  # longer than a name may be
    ],
)
def test_what_is_not_there(name, message, cache):
    with pytest.raises(UserError, match=message) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model(run):
    with pytest.raises(UserError, match="has no model.safetensors: give a file or folder that"):
        load_model(run)


def test_without_huggingface_hub(run, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"--format=hub needs huggingface_hub: pip install hugging"):
        export(monkeypatch, run, tmp_path / "hub")
    with pytest.raises(UserError, match=r"no file or folder owner/name; .* its extra \[hub\]"):
        load_model("owner/name")
    assert_same_model(folder, run)
    save_model(tmp_path / "file", load_model(folder)[0])
