"""A corpus that moves is accepted, and one with other content is not, whatever its kind."""

import base64
import dataclasses
import gzip
import io
import json
import os
import shutil
import sysconfig
import tarfile

import numpy as np
import pytest

import block_recurrent.data.extents
import block_recurrent.training.corpus_record
from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.extents import Extent, bytes_hashed, hashes
from block_recurrent.errors import UserError
from block_recurrent.training.corpus_record import UNRECORDED, check_corpus, record_corpus
from corpus import tiny_run, write_corpus
from preparing import write_texts
from runs import SharingTrainer
from stores import make_store

BOTH = ["train", "held_out"]
TEXTS = {f"{i}.txt": f"text {i}\n".encode() * 300 for i in range(6)}


def rows(texts) -> bytes:
    lines = (json.dumps({"text": text.decode()}) + "\n" for text in texts.values())
    return "".join(lines).encode()


def archive(texts) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return file.getvalue()


def write(kind: str, folder, texts) -> dict:
    """Writes a corpus of a kind, and returns the options that name it."""
    path = {"corpus": "text_files", "path": str(folder)}
    if kind == "folder":
        write_texts(folder, texts)
    elif kind == "rows":
        write_texts(folder, {"a.jsonl": rows(texts)})
    elif kind == "compressed":
        write_texts(folder, {"a.jsonl.gz": gzip.compress(rows(texts), mtime=0)})
    elif kind == "archive":
        write_texts(folder, {"a.tar": archive(texts)})
    elif kind == "one file":
        write_texts(folder, {"book.txt": b"".join(texts.values())})
        path["path"] = str(folder / "book.txt")
    elif kind == "stores":
        stores = []
        for name in ("one", "two"):
            strings = [text.decode() for text in texts.values()]
            stores.append(str(folder / name))
            make_store(folder / name, {"train": [strings[1:]], "held_out": [strings[:1]]})
        return {"corpus": "store", "stores": tuple(stores), "weights": (1.0, 3.0)}
    else:
        write_texts(folder, {f"{name}.py": text for name, text in texts.items()})
        return {"corpus": "standard_library"}
    return path


KINDS = ["folder", "rows", "compressed", "archive", "one file", "stores", "embedded"]


def load(options, folder, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(folder))  # of the embedded corpus
    return load_documents(DataConfig(**options))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_content_elsewhere_is_accepted(kind, tmp_path, monkeypatch):
    options = write(kind, tmp_path / "here", TEXTS)
    record_corpus(tmp_path, load(options, tmp_path / "here", monkeypatch))
    notes = []
    shutil.copytree(tmp_path / "here", tmp_path / "copy", copy_function=shutil.copyfile)
    (tmp_path / "here").rename(tmp_path / "moved")
    for place in ("moved", "copy"):
        there = {
            name: tuple(one.replace("/here", f"/{place}") for one in value)
            if name == "stores"
            else str(value).replace("/here", f"/{place}")
            for name, value in options.items()
            if name != "weights"
        }
        splits = load(there, tmp_path / place, monkeypatch)
        assert check_corpus(tmp_path, splits, BOTH, note=notes.append)
    files = [note for note in notes if "were modified or copied since this run" in note]
    in_memory = kind in ("rows", "compressed", "archive")
    assert notes == files and bool(files) != in_memory, "of the copy only"


@pytest.mark.parametrize("kind", KINDS)
def test_other_content_of_the_same_size_is_refused(kind, tmp_path, monkeypatch):
    options = write(kind, tmp_path / "here", TEXTS)
    record_corpus(tmp_path, load(options, tmp_path / "here", monkeypatch))
    changed = TEXTS | {"3.txt": TEXTS["3.txt"][:-300] + b"x" + TEXTS["3.txt"][-299:]}
    if kind == "stores":
        file = tmp_path / "here" / "two" / "train-00000.tokens"
        tokens = bytearray(file.read_bytes())
        tokens[-7] += 1
        file.write_bytes(tokens)
    else:
        shutil.rmtree(tmp_path / "here")
        write(kind, tmp_path / "here", changed)
    splits = load(options, tmp_path / "here", monkeypatch)
    name = {"stores": "two/train-00000.tokens", "one file": "book.txt"}.get(kind, "")
    with pytest.raises(UserError, match=rf"\(of other content: .*{name}.*\): restore it, or s"):
        check_corpus(tmp_path, splits, BOTH)


@pytest.fixture
def recorded(tmp_path):
    """The options of a folder of texts that is recorded in `tmp_path`."""
    options = write("folder", tmp_path / "texts", TEXTS)
    record_corpus(tmp_path, load_documents(DataConfig(**options)))
    return options


def test_only_touched_files_are_read(recorded, tmp_path, monkeypatch):
    read = []

    def observed(extents, most):
        read.extend(extent.name for extent in extents)
        return hashes(extents, most)

    monkeypatch.setattr(block_recurrent.training.corpus_record, "hashes", observed)
    splits, notes = load_documents(DataConfig(**recorded)), []
    assert check_corpus(tmp_path, splits, BOTH, note=notes.append) and notes == read == []
    os.utime(tmp_path / "texts" / "4.txt")
    before = (tmp_path / "corpus.json").read_bytes()
    check_corpus(tmp_path, splits, BOTH, note=notes.append)
    assert {name.partition("[")[0] for name in read} == {"4.txt"}
    assert (tmp_path / "corpus.json").read_bytes() == before, "only a training run writes it"
    check_corpus(tmp_path, splits, BOTH, note=notes.append, update=True)
    assert set(notes) == {
        "the files of the corpus were modified or copied since this run started (2 modification "
        "times differ), but have the same content (all of it was compared)"
    }
    read.clear(), notes.clear()
    assert check_corpus(tmp_path, splits, BOTH, note=notes.append) and notes == read == []


def test_times_are_not_trusted_in_another_place(recorded, tmp_path):
    """Archives and images may give all files the same time."""
    others = tmp_path / "others"
    shutil.copytree(tmp_path / "texts", others)
    moved = ["data.path: …"]
    changed = load_documents(DataConfig(**recorded | {"path": str(others)}))
    assert check_corpus(tmp_path, changed, BOTH, options=moved)
    time = (others / "2.txt").stat().st_mtime_ns
    write_texts(others, {"2.txt": TEXTS["2.txt"].replace(b"text", b"TEXT")})
    os.utime(others / "2.txt", ns=(time, time))
    assert check_corpus(tmp_path, changed, BOTH), "the same time in the same place"
    with pytest.raises(UserError, match="of other content: 2.txt"):
        check_corpus(tmp_path, changed, BOTH, options=moved)


def test_a_record_of_an_earlier_version(recorded, tmp_path):
    """It has no content. The next start records it, and then it counts."""
    record = json.loads((tmp_path / "corpus.json").read_text())
    for split in record.values():
        del split["modified"], split["hashes"]
    (tmp_path / "corpus.json").write_text(json.dumps(record))
    splits, notes = load_documents(DataConfig(**recorded)), []
    assert check_corpus(tmp_path, splits, BOTH, note=notes.append)
    assert check_corpus(tmp_path, splits, BOTH, note=notes.append, update=True)
    assert notes == [UNRECORDED, f"{UNRECORDED}. It is recorded now"]
    write_texts(tmp_path / "texts", {"2.txt": TEXTS["2.txt"].replace(b"text", b"TEXT")})
    with pytest.raises(UserError, match="of other content: 2.txt"):
        check_corpus(tmp_path, load_documents(DataConfig(**recorded)), BOTH)


def test_a_run_without_a_record_gets_one(recorded, tmp_path):
    (tmp_path / "corpus.json").unlink()
    splits, notes = load_documents(DataConfig(**recorded)), []
    assert not check_corpus(tmp_path, splits, BOTH, note=notes.append)
    assert not (tmp_path / "corpus.json").exists()
    assert not check_corpus(tmp_path, splits, BOTH, note=notes.append, update=True)
    line = (
        f"{tmp_path} has no corpus.json: its documents cannot be compared with those of its start"
    )
    assert notes == [line, line]
    assert check_corpus(tmp_path, splits, BOTH, note=notes.append)


@pytest.mark.parametrize("part", ["modified", "hashes"])
@pytest.mark.parametrize("text", ["=", base64.b64encode(b"123").decode(), "", 3])
def test_damaged_content(recorded, part, text, tmp_path):
    record = json.loads((tmp_path / "corpus.json").read_text())
    record["train"][part] = text
    (tmp_path / "corpus.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="corpus.json is damaged: restore it, or delete it"):
        check_corpus(tmp_path, load_documents(DataConfig(**recorded)), BOTH)


def test_large_corpora_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(block_recurrent.data.extents, "MOST_HASHED", 40_000)
    monkeypatch.setattr(block_recurrent.data.extents, "PIECE", 1000)
    content = np.random.default_rng(0).bytes(100_000)
    (tmp_path / "file").write_bytes(b"before" + content + b"after")
    on_disk = [Extent("file", tmp_path / "file", 6, len(content)), Extent("small", b"abc", 0, 3)]
    in_memory = [Extent("file", content, 0, len(content)), Extent("small", b"xabcx", 1, 3)]
    assert bytes_hashed(on_disk) == 20_000
    np.testing.assert_array_equal(hashes(on_disk, 20_000), hashes(in_memory, 20_000))

    def noticed(place: int) -> bool:
        other = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        return hashes([Extent("file", other, 0, len(other))], 20_000)[0] != whole

    whole = hashes(in_memory[:1], 20_000)[0]
    assert noticed(0) and noticed(len(content) - 1)
    assert sum(map(noticed, range(0, 100_000, 500))) == 40, "one byte in five is read"


def test_very_many_files_are_sampled_too(monkeypatch):
    monkeypatch.setattr(block_recurrent.data.extents, "MOST_HASHED", 10_000)
    many = [Extent(str(i), b"a" * 5000, 0, 5000) for i in range(100)]
    assert bytes_hashed(many) == 4096
    assert len(set(hashes(many, 4096))) == 1


def test_a_file_that_is_gone(recorded, tmp_path):
    splits = load_documents(DataConfig(**recorded))
    (tmp_path / "texts" / "1.txt").unlink()
    with pytest.raises(UserError, match=r"cannot read .*1.txt \(No such file or directory\): rest"):
        check_corpus(tmp_path, splits, BOTH)


@pytest.mark.slow
def test_a_run_goes_on_with_other_weights(tmp_path):
    texts = write_corpus(tmp_path / "texts")
    stores = [str(tmp_path / name) for name in ("one", "two")]
    written = [path.read_text() for path in sorted(texts.iterdir())]
    for number, store in enumerate(stores):
        make_store(tmp_path / store, {"train": [written[number::2]], "held_out": [written[:1]]})

    def run(steps, *weights, **options):
        data = DataConfig("store", stores=tuple(stores), weights=weights)
        config = dataclasses.replace(tiny_run(texts, num_steps=steps), data=data)
        trainer = SharingTrainer(config, tmp_path / "run", **options)
        return trainer.run()

    assert run(2, 1.0, 1.0)
    with pytest.raises(UserError, match=r"data.weights: \(1.0, 1.0\) in the workdir, \(1.0, 9.0\)"):
        run(4, 1.0, 9.0)
    assert run(4, 1.0, 9.0, allow_changes=True)
    assert run(5, 1.0, 9.0)
