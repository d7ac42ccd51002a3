"""Stores made of files of all formats: the documents, without TensorFlow, and after a kill."""

import gzip
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor

from block_recurrent.config.data_options import DataConfig, PrepareConfig
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.formats import corpus, json_rows
from block_recurrent.data.formats.corpus import Corpus
from block_recurrent.data.held_out import document_name
from block_recurrent.data.prepare import plain_folder, streamed_corpus
from block_recurrent.data.prepare.source import open_sources
from block_recurrent.data.prepare.store_writer import Shard
from block_recurrent.errors import UserError
from books import text_of
from preparing import (
    ONE_PROCESS,
    TEXTS,
    bind,
    command,
    contents,
    data,
    documents_of,
    environment,
    peak_megabytes,
    texts_of,
)
from text_formats import COMPRESS, FILES, archive, write
from text_formats import TEXTS as ROWS

BOOKS = {f"http://{i}": text_of(i) for i in range(60)}
LINES = [json.dumps({"url": url, "text": text}) + "\n" for url, text in BOOKS.items()]


@pytest.fixture(autouse=True)
def without_tensorflow(monkeypatch):
    for name in ("tensorflow", "seqio", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, name, None)


def lossy(model: str) -> dict[str, Any]:
    """The options of a SentencePiece model that turns all white space into spaces."""
    return {"prepare__vocabulary": model, "prepare__allow_lossy_vocabulary": True}


def both(store: str) -> dict[str, bytes]:
    """The documents of both splits; ends that are held out are joined to their beginnings."""
    splits = [texts_of(store, split) for split in ("train", "held_out")]
    assert all(splits) and splits[0].keys().isdisjoint(splits[1])
    joined: dict[str, bytes] = {}
    for texts in splits:
        for name, text in texts.items():
            joined[document_name(name)] = joined.get(document_name(name), b"") + text
    return joined


def write_mixture(place: Path) -> Path:
    """A folder of files of all formats, compressed and in an archive, and a text in one."""
    files = {f"{name}{suffix}": COMPRESS[suffix](FILES[name]) for name in FILES for suffix in [""]}
    files |= {
        f"{suffix[1:]}.jsonl{suffix}": COMPRESS[suffix](FILES["a.jsonl"])
        for suffix in COMPRESS
        if suffix
    }
    files |= {"plain.txt": b"plain", "z.tgz": archive("gz", {"in/1.txt": b"one", "2.txt": b""})}
    return write(place / "mixture", files)


def test_a_store_has_the_documents_and_splits_of_training_without_one(prepare, place):
    mixture = write_mixture(place)
    options = {"data__path": "mixture", "data__held_out_per_mille": 200}
    out = prepare("store", *TEXTS, *bind(**options, data__allow_binary=True))
    splits = load_documents(DataConfig("text_files", str(mixture), held_out_per_mille=200))
    for split, documents in splits.items():
        raw = {name: documents.raw(i) for i, name in enumerate(documents.names)}
        assert texts_of("store", split) == raw and len(raw) > 5
    assert "1 empty documents left out" in out


def test_the_bytes_do_not_depend_on_the_number_of_processes(prepare, place, run):
    write_mixture(place)
    mixture = bind(data__path="mixture", data__allow_binary=True)
    prepare("one", *TEXTS, *mixture)
    status, _, err = run("--output=two", *TEXTS, *mixture, *bind(prepare__num_processes=2))
    assert (status, err) == (0, "")
    assert contents(place / "one") == contents(place / "two")
    assert run("--output=one", "--verify")[0] == 0


@pytest.mark.parametrize("name", ["a.jsonl", "f.parquet", "z.zip", "one.txt.gz"])
def test_a_file_is_a_corpus(name, prepare, place):
    content = {"z.zip": archive("zip", {str(i): text.encode() for i, text in enumerate(ROWS)})}
    content |= FILES | {"one.txt.gz": gzip.compress("|".join(ROWS).encode())}
    write(place, {name: content[name]})
    options = bind(data__path=name, data__separator="|", data__allow_binary=True)
    prepare("store", *TEXTS, *options)
    expected = Corpus(DataConfig("text_files", name, separator="|")).documents()
    assert both("store") == {one.name: b"".join(one.pieces) for one in expected}
    assert sorted(both("store").values()) == sorted(text.encode() for text in ROWS)


@pytest.mark.parametrize(
    "gin_file, files",
    [
        ("pile", {f"0{i}.jsonl.zst": ("\n", ".zst") for i in range(3)}),
        ("c4", {f"c4-train.0000{i}-of-00003.json.gz": ("", ".gz") for i in range(3)}),
        ("parquet", {f"data/train-0000{i}-of-00003.parquet": None for i in range(3)}),
    ],
)
def test_the_gin_files_of_common_corpora(gin_file, files, prepare, place, model):
    """Each with the tokens of SentencePiece itself."""
    import pyarrow as pa
    from pyarrow import parquet

    for index, (name, kind) in enumerate(files.items()):
        lines = LINES[index::3]
        if kind:
            write(place / "corpus", {name: COMPRESS[kind[1]]("".join(lines).encode())})
        else:
            (place / "corpus" / "data").mkdir(parents=True, exist_ok=True)
            parquet.write_table(
                pa.Table.from_pylist(list(map(json.loads, lines))), place / "corpus" / name
            )
    write(place / "corpus", {"README.md": b"# About"})
    options = bind(data__path="corpus", data__held_out_per_mille=300, prepare__vocabulary=model)
    prepare("store", data(gin_file), *options)
    processor = SentencePieceProcessor(model_file=model)
    found = documents_of("store", "train") | documents_of("store", "held_out")
    assert len(found) == len(BOOKS) and (gin_file != "c4" or found.keys() == BOOKS.keys())
    assert sorted(found.values()) == sorted(processor.encode(text) for text in BOOKS.values())


def test_rows_of_a_document(prepare, place):
    rows = [{"repo": f"r{i % 7}", "path": -i, "text": f"{i} "} for i in range(70)]
    write(place / "code", {"rows.jsonl": "\n".join(map(json.dumps, rows)).encode()})
    options = bind(data__path="code", data__group_by="repo", data__order_by="path")
    prepare("store", *TEXTS, *options)
    expected = {
        f"r{i}": "".join(f"{j} " for j in reversed(range(i, 70, 7))).encode() for i in range(7)
    }
    assert both("store") == expected
    assert not (place / "store" / "rows").exists()


def test_rows_that_are_left_out_are_counted(prepare, place, run):
    lines = [line if i % 5 else '{"text": null}\n' for i, line in enumerate(LINES)]
    write(place / "some", {"a.jsonl": "".join(lines).encode(), "b.txt": b"b"})
    status, _, err = run("--output=store", *ONE_PROCESS, *TEXTS, *bind(data__path="some"))
    assert status == 2 and err.startswith(
        "error: a.jsonl, row 1: the field 'text' is null; correct the row, or leave such"
    )
    assert not list(place.glob("store*"))
    out = prepare("store", *TEXTS, *bind(data__path="some", data__skip_bad_rows=True))
    assert "store: 12 rows left out (data.skip_bad_rows)\n" in out
    assert len(both("store")) == 49
    assert json.loads(Path("store/store.json").read_text())["splits"]["train"]["skipped_rows"] == 12


def test_an_error_in_a_later_row_leaves_no_shard(place, run):
    write(place / "some", {"a.jsonl": "".join(LINES[:40]).encode() + b"{\n", "b.txt": b"b"})
    options = bind(data__path="some", data__held_out_per_mille=300)
    status, _, err = run("--output=store", *ONE_PROCESS, *TEXTS, *options)
    assert status == 2 and err.startswith("error: a.jsonl, row 41: it is no JSON object (")
    assert not list(place.glob("**/*.tmp")) and not list(place.glob("**/*-00000.*"))


def test_long_lines_in_pieces(prepare, place, model, monkeypatch):
    """A line that is not held in memory has the same tokens."""
    monkeypatch.setattr(json_rows, "LONG_BYTES", 1000)
    write(place / "some", {"a.jsonl": "".join(LINES).encode()})
    options = bind(data__path="some", data__held_out_per_mille=300, **lossy(model))
    prepare("store", *TEXTS, *options)
    processor = SentencePieceProcessor(model_file=model)
    found = documents_of("store", "train") | documents_of("store", "held_out")
    assert list(found.values()) != [] and sorted(found.values()) == sorted(
        processor.encode(text) for text in BOOKS.values()
    )


@pytest.mark.long  # tests/data/prepare/test_prepare_stops.py always kills books
def test_the_same_command_continues_after_a_kill(place, prepare):
    write(place / "some", {f"{i}.jsonl": "".join(LINES * 60).encode() for i in range(4)})
    arguments = [*TEXTS, *bind(data__path="some", prepare__num_processes=2)]
    for _ in range(2):
        process = subprocess.Popen(
            command("--output=store", *arguments), env=environment(), start_new_session=True
        )
        before = len(list(place.glob("store.partial/*.json")))
        while len(list(place.glob("store.partial/*.json"))) <= before and process.poll() is None:
            time.sleep(0.001)
        if process.poll() is None:  # a quick machine may have finished
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    prepare("store", *arguments)
    prepare("undisturbed", *arguments)
    assert contents(place / "store") == contents(place / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".zst", pytest.param("", marks=pytest.mark.long)])
def test_memory_does_not_grow_with_a_record(suffix, place):
    """Peak memory with a line of 25 MB and with one of 200 MB, as bytes."""
    import zstandard

    peaks = []
    for megabytes in (25, 200):
        folder = write(place / f"{megabytes}", {"b.txt": b"short"})
        with (
            zstandard.open(folder / "a.jsonl.zst", "wb")
            if suffix
            else open(folder / "a.jsonl", "wb") as file
        ):
            file.write(b'{"text": "')
            for _ in range(megabytes):
                file.write(b"0123456789\\n\\u00e9bcd" * 50_000)
            file.write(b'"}\n')
        options = bind(data__path=str(folder), data__held_out="b.txt")
        arguments = f"--output={megabytes}.store", *TEXTS, *ONE_PROCESS, *options
        peaks.append(peak_megabytes(*arguments))
    assert peaks[1] < peaks[0] + 50, f"{peaks} MB"


@pytest.mark.parametrize(
    "files", [{"a.jsonl": "".join(LINES).encode()}, {"a.txt": b"a" * 9000, "b.txt": b"b"}]
)
def test_the_corpus_is_listed_and_divided_once(files, place, prepare, monkeypatch):
    """Also by the survey of what will be written."""
    calls = []

    def count(module, name: str):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: calls.append(name) or real(*a, **k))

    count(corpus, "CorpusPaths")
    count(streamed_corpus, "StreamedDivision")
    count(plain_folder, "group_files")
    prepare("store", *TEXTS, *bind(data__path=str(write(place / "some", files))))
    divides = "StreamedDivision" if "a.jsonl" in files else "group_files"
    assert calls == ["CorpusPaths", divides]


def test_workers_get_the_corpus_as_it_was_listed(place, model):
    """So they read no file to divide it, and have the same documents."""
    write(place / "some", {"a.jsonl": "".join(LINES).encode(), "z.tgz": archive("gz", {"1": b"1"})})
    data = DataConfig("text_files", "some")
    (source,) = open_sources(PrepareConfig("text_files", model), data).tasks.values()
    description = source.describe()
    sent = pickle.loads(pickle.dumps(source))
    (place / "some" / "z.tgz").write_bytes(b"no archive")
    assert sent.describe() == description
    with pytest.raises(UserError, match="z.tgz has 10 bytes, but had .* at the start"):
        list(sent.examples(Shard("text_files", {"train": "train"}, 1, 2, place)))
    names = [example.name for example in source.examples(Shard("t", {}, 0, 2, place))]
    assert names and all(name.startswith("a.jsonl:") for name in names)
