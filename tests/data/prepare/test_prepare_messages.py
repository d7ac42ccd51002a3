"""What prepare_data prints: the result of --verify, and a message for each mistake."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from preparing import ONE_PROCESS, TEXTS, bind, contents, data, mine


@pytest.mark.slow
def test_verify(run, place, prepare):
    prepare("both", *mine("both"))
    assert run("--output=both", "--verify") == (0, "both: every file is as it was written\n", "")
    path = place / "both" / "pieces" / "train-00000.tokens"
    tokens = bytearray(path.read_bytes())
    tokens[11] ^= 1
    path.write_bytes(tokens)
    status, out, err = run("--output=both", "--verify")
    assert status == 2
    assert out == "both/pieces/train-00000.tokens contains other bytes than were written\n"
    assert err == (
        "error: both is damaged: restore it from a copy, or delete it and prepare it again\n"
    )
    status, _, err = run("--output=texts", "--verify")
    assert status == 2 and err.startswith("error: no token store in texts (no store.json): make")


def test_store_with_another_plan_is_refused(refuse, prepare, place):
    prepare("store", *TEXTS)
    shards, per_mille = bind(prepare__num_shards=5), bind(data__held_out_per_mille=300)
    counts = "tasks.text_files.shards"
    different = f"({counts}.train: 11 there, 5 now; {counts}.validation: 8 there, 5 now)"
    assert refuse(*TEXTS, *shards) == (
        f"store is another token store {different}: name another --output, or remove it"
    )
    source = "tasks.text_files.source"
    assert f"{source}.held_out_per_mille: 20 there, 300 now; {source}.files: '" in refuse(
        *TEXTS, *per_mille
    )
    before = contents(place / "store")
    shutil.move("store", "store.partial")
    os.unlink("store.partial/store.json")
    assert refuse(*TEXTS, *shards) == (
        f"{place}/store.partial is part of another token store {different}: remove it, or "
        "name another --output"
    )
    text = (place / "texts" / "0.txt").read_bytes()
    (place / "texts" / "0.txt").write_bytes(b"changed")
    message = refuse(*TEXTS)
    assert f"({source}.files: '" in message and "…' there, '" in message
    (place / "texts" / "0.txt").write_bytes(text)
    assert prepare("store", *TEXTS).startswith(
        "19 of 19 shards are already complete\nstore train: "
    )
    assert contents(place / "store") == before


def test_output_that_is_not_a_store(refuse, prepare, place):
    end = " exists and is not a token store: name another --output"
    assert refuse(*TEXTS, output="texts") == f"texts{end}"
    assert refuse(*TEXTS, output="texts/0.txt") == f"texts/0.txt{end}"
    message = refuse(*TEXTS, output="texts/0.txt/store")
    assert message == "cannot write to texts/0.txt/store (Not a directory): name another --output"
    (place / "empty").mkdir()
    prepare("empty", *TEXTS)


def test_mistakes_in_the_command(refuse, run):
    assert refuse(data("embedded")).startswith(
        "prepare.task is not set: choose from 'pg19_bytes', 'pg19_"
    )
    assert refuse(*bind(prepare__tsak="arxiv")) == (
        "--gin_bindings: prepare has no parameter 'tsak': did you mean prepare.task?"
    )
    assert refuse(*bind(prepare__num_shards=0)) == (
        "--gin_bindings: prepare.num_shards = 0: must be at least 1"
    )
    assert refuse(data("arxiv")) == (
        "prepare.task = 'arxiv' needs a source: set data.path to a file or folder, or prepare.tfds "
        "to a TFDS dataset"
    )
    assert refuse(*TEXTS, *bind(prepare__vocabulary="sentencepiece.model")).startswith(
        "prepare.vocabulary = 'sentencepiece.model': cannot read the vocabulary"
    )
    assert refuse(*TEXTS, *bind(data__path="nowhere")).startswith("data.path = 'nowhere' does not")
    status, _, err = run("--gin_file=gin/data/arxiv.gin")
    assert status == 2 and "required: --output" in err


def test_missing_packages(refuse, monkeypatch):
    monkeypatch.setitem(sys.modules, "seqio", None)
    message = refuse(data("pg19_bytes"))
    assert message.startswith("prepare_data needs TensorFlow and seqio (import of seqio halted")
    assert message.endswith(" pip install -e '.[data]'")


def test_missing_tfds_datasets(refuse, place):
    message = refuse(data("pg19_bytes"), *bind(prepare__tfds_data_dir="nowhere"))
    assert message == (
        "Task pg19_bytes: the TFDS dataset pg19 is not in nowhere: build it (tfds build pg19 "
        "--data_dir=nowhere), or set prepare.tfds_data_dir to its folder"
    )
    message = refuse(*bind(prepare__task="arxiv", prepare__tfds="no_such_thing"))
    assert "the TFDS dataset no_such_thing is not in " in message
    message = refuse(*mine("without_tfds"))
    assert "(tfds build my_books:1.0.0 --data_dir=" in message


def test_tasks_that_do_not_produce_documents(refuse, run, pg19):
    assert refuse(*mine("without_text")) == (
        "Task without_text: its examples have no 'targets_pretokenized', the text before "
        "tokenization: tokenize it with seqio.preprocessors.tokenize, which keeps the text"
    )
    assert refuse(*mine("without_targets")) == (
        "Task without_targets: it has no output feature 'targets': give its tokens that name"
    )
    message = refuse(*mine("without_tokens"))
    assert message.startswith("Task without_tokens: ValueError: Task dataset has incorrect type")
    assert message.endswith(": fix its source or its preprocessors")
    assert refuse(*mine("without_validation", prepare__tfds_data_dir=pg19)) == (
        "Task without_validation: it has no split 'validation', only 'train', 'test': add the "
        "split to its source, for example seqio.TfdsDataSource(…, splits={'train': 'train[:98%]', "
        "'validation': 'train[98%:]'})"
    )
    assert refuse(*mine("without_end_token")) == (
        "Task without_end_token: its PassThroughVocabulary has no end token, but each document "
        "needs one: give it an eos_id"
    )
    status, _, err = run("--output=store", *ONE_PROCESS, *mine("few_letters"))
    assert status == 2 and err == (
        "error: few_letters, split 'train': an example has tokens from 32 to 116, but its "
        "vocabulary has 100: give the output feature 'targets' the vocabulary of its tokens\n"
    )
    shutil.rmtree("store.partial")
    status, _, err = run("--output=store", *ONE_PROCESS, *mine("without_end"))
    assert status == 2 and err == (
        "error: without_end, split 'train': the last example of a shard has 'continues' set, but "
        "no example follows it\n"
    )


def test_damaged_records(run, pg19, place):
    shutil.copytree(pg19, "damaged")
    (path,) = Path("damaged").glob("pg19/0.1.1/pg19-train.tfrecord-00001-*")
    record = bytearray(path.read_bytes())
    record[100] ^= 1
    path.write_bytes(record)
    arguments = [data("pg19_bytes"), *bind(prepare__tfds_data_dir="damaged")]
    status, _, err = run("--output=store", *ONE_PROCESS, *arguments)
    assert status == 2 and err == (
        "error: pg19_bytes, split 'train': corrupted record at 12 (DataLossError): fix its "
        "source or its preprocessors\n"
    )
    assert not (place / "store").exists()


def test_help(run):
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    assert out.startswith("usage: python -m block_recurrent.prepare_data ") and "--verify" in out
