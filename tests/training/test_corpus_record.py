"""A run and its evaluation read the documents that the run started with, or none."""

import argparse
import dataclasses
import gzip
import json
import shutil

import pytest
from flax import nnx

from block_recurrent.errors import UserError
from block_recurrent.evaluate import make_evaluator
from block_recurrent.training.corpus_record import check_corpus, record_corpus
from block_recurrent.training.workdir import load_run
from corpus import tiny_run, write_corpus
from preparing import load_text_files, write_texts
from runs import SharingTrainer

START = "the corpus has changed since this run started ("
END = "): restore it, or start a new run with the current files in another --workdir"


@pytest.fixture
def texts(tmp_path):
    files = {f"{i}.txt": b"a line\n" * 1000 for i in range(60)}
    write_texts(tmp_path / "texts", files)
    return tmp_path / "texts"


def reason(workdir, texts, splits=("train", "held_out")) -> str:
    with pytest.raises(UserError) as error:
        check_corpus(workdir, load_text_files(texts), splits)
    message = str(error.value)
    assert message.startswith(START) and message.endswith(END)
    return message[len(START) : -len(END)]


def test_changes_are_named(texts, tmp_path):
    record_corpus(tmp_path, load_text_files(texts))
    check_corpus(tmp_path, load_text_files(texts), ["train", "held_out"])
    write_texts(texts, {"new.txt": b"new"})
    assert reason(tmp_path, texts) == "added: new.txt"
    (texts / "3.txt").unlink()
    write_texts(texts, {"5.txt": b"short", **{f"later {i}": b"new" for i in range(5)}})
    assert reason(tmp_path, texts) == (
        "added: later 0, later 1, later 2 and 3 more; removed: 3.txt; of another length: 5.txt"
    )


def test_documents_that_move_between_splits(texts, tmp_path):

    record_corpus(tmp_path, load_text_files(texts, held_out="1.txt"))
    with pytest.raises(UserError, match="now in another split: 1.txt, 2.txt"):
        check_corpus(tmp_path, load_text_files(texts, held_out="2.txt"), ["train"])


def test_only_the_splits_that_are_read_count(texts, tmp_path):
    write_texts(texts, {"test.txt": b"for later"})
    splits = load_text_files(texts, held_out="1.txt")
    record_corpus(tmp_path, splits)
    write_texts(texts, {"test.txt": b"for another time"})
    changed = load_text_files(texts, held_out="1.txt")
    check_corpus(tmp_path, changed, ["train", "held_out"])
    with pytest.raises(UserError, match="of another length: test.txt"):
        check_corpus(tmp_path, changed, ["test"])


def test_names_that_are_not_utf8(texts, tmp_path):
    record_corpus(tmp_path, load_text_files(texts))
    write_texts(texts, {"\udcff.txt": b"new"})
    assert reason(tmp_path, texts) == "added: \udcff.txt"


def test_names_of_very_many_documents_are_not_recorded(texts, tmp_path, monkeypatch):
    monkeypatch.setattr("block_recurrent.training.corpus_record.MAX_NAMES", 50)
    record_corpus(tmp_path, load_text_files(texts))
    assert (tmp_path / "corpus.json").stat().st_size < 5000
    write_texts(texts, {"new.txt": b"new"})
    counts = "train: 59 documents then, 59 now; held_out: 60 documents then, 61 now"
    assert reason(tmp_path, texts) == counts


def test_documents_of_other_formats(texts, tmp_path):
    """Rows of a file are named one by one."""
    rows = [json.dumps({"text": f"row {i}"}) + "\n" for i in range(9)]
    write_texts(texts, {"a.jsonl": "".join(rows[:7]).encode()})
    record_corpus(tmp_path, load_text_files(texts))
    check_corpus(tmp_path, load_text_files(texts), ["train", "held_out"])
    write_texts(texts, {"a.jsonl": "".join(rows).encode(), "b.txt.gz": gzip.compress(b"new")})
    assert reason(tmp_path, texts) == "added: a.jsonl:8, a.jsonl:9, b.txt.gz"


@pytest.mark.parametrize("content", [b"", b"\xff", b"[3]", b'{"train": 3}', b'{"train": {}}'])
def test_a_damaged_record(texts, tmp_path, content):
    (tmp_path / "corpus.json").write_bytes(content)
    with pytest.raises(UserError, match="corpus.json is damaged: restore it, or delete it"):
        check_corpus(tmp_path, load_text_files(texts), ["train"])


def test_a_run_without_a_record(texts, tmp_path):
    """As earlier versions wrote it."""
    check_corpus(tmp_path, load_text_files(texts), ["train", "held_out"])


def test_a_run_in_the_folder_of_its_corpus(tmp_path, monkeypatch):
    """It continues, and reads no file of its own, even if the texts are beside its checkpoints."""
    write_corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    config, workdir = tiny_run(".", num_steps=1), tmp_path / "runs" / "mine"
    names = load_text_files(".")["train"].names
    assert SharingTrainer(config, workdir).run()
    more = dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=2))
    assert SharingTrainer(more, workdir).run()
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    assert load_text_files(".")["train"].names == names
    write_texts(tmp_path, {"new.txt": b"a new document"})
    with pytest.raises(UserError, match=r"started \(added: new.txt\): restore it"):
        SharingTrainer(more, workdir).run()
    run = load_run(workdir)
    arguments = argparse.Namespace(workdir=workdir, split="held_out")
    with pytest.raises(UserError, match=r"started \(added: new.txt\): restore it"):
        make_evaluator(nnx.split(run.model)[0], run.config, arguments)
