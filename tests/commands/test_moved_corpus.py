"""Commands that read the corpus of a run are told where it lies now."""

import argparse
import shutil

import pytest
from flax import nnx

import block_recurrent.analyze
import block_recurrent.evaluate
import block_recurrent.export
import block_recurrent.generate
from block_recurrent.analyze import held_out_documents
from block_recurrent.errors import UserError
from block_recurrent.evaluate import make_evaluator
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.trainer import Trainer
from block_recurrent.training.workdir import load_run, read_config, record_config
from corpus import tiny_run, write_corpus

COMMANDS = {
    "analyze": (block_recurrent.analyze.main, "--output=inside"),
    "evaluate": (block_recurrent.evaluate.main,),
    "export": (block_recurrent.export.main, "--output=model.safetensors"),
    "generate": (block_recurrent.generate.main, "--prompt=a"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run before its first step, whose corpus has moved from "texts" to "moved"."""
    place = tmp_path_factory.mktemp("place")
    trainer = Trainer(tiny_run(write_corpus(place / "texts")), place / "run")
    record_config(place / "run", trainer.config)
    with Checkpoints(place / "run") as checkpoints:
        checkpoints.save(*trainer.start(checkpoints))
    shutil.copytree(place / "texts", place / "moved", copy_function=shutil.copyfile)
    shutil.rmtree(place / "texts")
    return place / "run"


def bindings(run, folder) -> list[str]:
    return [f"data.path = '{run.parent / folder}'"]


def evaluator(run, where=()):
    config, model, _ = load_run(run, bindings=where)
    arguments = argparse.Namespace(
        workdir=run, split="held_out", batch_size=None, segment_length=None
    )
    return make_evaluator(nnx.split(model)[0], config, arguments)


def test_evaluate_and_analyze_find_the_corpus(run, capsys):
    with pytest.raises(UserError, match="texts' does not exist: set it to a file or folder of te"):
        evaluator(run)
    found = evaluator(run, bindings(run, "moved"))
    out, err = capsys.readouterr()
    assert "were modified or copied since this run" in err and not out
    (text, other), _ = held_out_documents(run, read_config(run, bindings(run, "moved")), 2)
    assert {text.name, other.name} <= set(found.documents.names)
    lengths = sorted(found.documents.lengths.tolist(), reverse=True)
    assert [len(text.tokens), len(other.tokens)] == lengths[:2]


def test_other_documents_are_refused(run):
    write_corpus(run.parent / "others", seed=1)
    with pytest.raises(UserError, match="the corpus has changed since this run started"):
        evaluator(run, bindings(run, "others"))
    with pytest.raises(UserError, match="the corpus has changed since this run started"):
        held_out_documents(run, read_config(run, bindings(run, "others")), 1)


@pytest.mark.parametrize("name", COMMANDS)
def test_only_the_corpus_can_be_set(name, run, run_command, monkeypatch, tmp_path):
    main, *arguments = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    binding = "--gin_bindings=train.seed = 1"
    status, out, err = run_command(main, f"--workdir={run}", binding, *arguments)
    assert (status, out) == (2, "") and err == (
        "error: --gin_bindings='train.seed = 1': here it can only say where the corpus of the run "
        "lies now, with data.path, data.stores or data.held_out\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "binding", ["data.glob = '*.py'", "data.path = 'a'\ntrain.seed = 1", "path = 'a'"]
)
def test_how_the_corpus_is_read_cannot_be_set(binding, run):
    with pytest.raises(UserError, match="it can only say where the corpus of the run lies now"):
        read_config(run, [binding])


def test_a_model_file_has_no_corpus(run_command):
    binding = "--gin_bindings=data.path = 'a'"
    status, out, err = run_command(block_recurrent.generate.main, "--prompt=a", binding)
    assert (status, out) == (2, "")
    assert "says where the corpus of a run lies: give its --workdir" in err
