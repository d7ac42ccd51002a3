"""The table of docs/own_text.md: each command runs on a small file of the format that it is for."""

import gzip
import json
import re
import shlex
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

import block_recurrent.prepare_data
import block_recurrent.train
from block_recurrent.config.run_config import load
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.held_out import document_name
from block_recurrent.data.store import open_stores
from books import text_of, train_model
from runs import SharingTrainer
from text_formats import COMPRESS, archive, write

pytestmark = pytest.mark.repository

PAGE = Path(__file__).parents[2] / "docs/own_text.md"
TEXTS = [text_of(book) + "\n" for book in range(1, 9)]
BYTES = [text.encode() for text in TEXTS]
MODULES = {"train": block_recurrent.train, "prepare_data": block_recurrent.prepare_data}
TINY = ("train.num_steps = 1", "BlockRecurrentTransformer.num_layers = 2")


def lines(field: str = "text", texts=TEXTS, **others) -> bytes:
    """JSON lines."""
    return b"".join(json.dumps({field: text} | others).encode() + b"\n" for text in texts)


def table(write_table, path: Path, rows: list[dict]):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pa.Table.from_pylist(rows), path)


def write_stream(rows: pa.Table, path: Path):
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
        writer.write_table(rows)


def write_corpora(my: Path):
    """What the commands name."""
    texts = {f"{i}.txt": text for i, text in enumerate(BYTES)}
    write(my / "folder", texts | {"notes.md": b"not of data.glob"})
    write(my / "zipped", {f"{name}.gz": gzip.compress(text) for name, text in texts.items()})
    chapters = b"".join(b"CHAPTER %d\n" % i + text for i, text in enumerate(BYTES))
    write(my, {"text.txt.xz": COMPRESS[".xz"](b"<|endoftext|>".join(BYTES)), "book.txt": chapters})
    write(my, {"rows.jsonl.zst": COMPRESS[".zst"](lines("content"))})
    write(my, {"nested.jsonl": b"".join(b'{"meta": %s}\n' % row for row in lines().splitlines())})
    csv = "".join('"{}",1\n'.format(text.replace('"', '""')) for text in TEXTS)
    write(my, {"table.csv": ("body,id\n" + csv).encode()})
    rows = [{"text": text} for text in TEXTS]
    table(parquet.write_table, my / "snapshot/data/train-00000-of-00001.parquet", rows)
    write(my / "snapshot", {"README.md": b"about"})
    table(write_stream, my / "saved/data-00000-of-00001.arrow", rows)
    write(my / "saved", {"state.json": b"{}", "dataset_info.json": b"{}"})
    write(my, {"archive.tar.gz": archive("gz", texts)})
    halves = [
        {"repo": f"r{i}", "path": path, "content": text[start:stop]}
        for i, text in enumerate(TEXTS)
        for path, start, stop in (("b.py", 9, None), ("a.py", 0, 9))
    ]
    table(parquet.write_table, my / "code.parquet", halves)
    write(my / "dump", {"wiki_00": lines()})
    mixture = {"1.txt": BYTES[0], "2.txt.gz": gzip.compress(BYTES[1])}
    write(
        my / "mixture",
        mixture | {"3.jsonl": lines(texts=TEXTS[2:])},
    )
    write(my / "large", {"a.jsonl.gz": gzip.compress(lines())})
    write(my / "pile", {"00.jsonl.zst": COMPRESS[".zst"](lines(meta={}))})
    urls = (json.dumps({"text": text, "url": f"http://{i}"}) for i, text in enumerate(TEXTS))
    write(my / "c4", {"c4-train.0.json.gz": gzip.compress("\n".join(urls).encode())})
    shutil.copytree(my / "snapshot", my / "hub")


def commands() -> list[str]:
    section = (
        PAGE.read_text(encoding="utf-8").partition("## What you have")[2].partition("\n## ")[0]
    )
    found = re.findall(r"^\| .+ \| `(python .+)` \|$", section, re.MULTILINE)
    assert len(found) >= 16
    return [command.replace(r"\|", "|") for command in found]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own_text")
    write_corpora(folder / "my")
    train_model(folder / "sentencepiece.model")
    return folder


@pytest.mark.parametrize("command", commands())
def test_each_row_of_the_table(command, place, monkeypatch, run_command):
    monkeypatch.chdir(place)
    monkeypatch.setattr(block_recurrent.train, "Trainer", SharingTrainer)
    for name in ("tensorflow", "seqio", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    _, _, module, *arguments = shlex.split(command)
    name = module.rpartition(".")[2]
    if name == "train":
        shutil.rmtree("runs", ignore_errors=True)
        arguments += ["--gin_file=gin/scale/tiny.gin", "--workdir=runs/mine"]
        arguments += [f"--gin_bindings={binding}" for binding in TINY]
    else:
        arguments.append("--gin_bindings=prepare.num_processes = 1")
    status, *said = run_command(MODULES[name].main, *arguments)
    assert status == 0, said
    if name == "train":
        documents = load_documents(load(["runs/mine/config.gin"], []).data)
        joined = defaultdict(bytes)  # ends that are held out belong to their beginnings
        for split in documents.values():
            for i, part in enumerate(split.names):
                joined[document_name(part)] += split.raw(i)
        assert sorted(joined.values()) == sorted(BYTES)
    else:
        output = next(each for each in arguments if each.startswith("--output="))
        stores = open_stores(output.partition("=")[2])
        assert sum(store.num_bytes for ((store, _),) in stores.values()) == sum(map(len, BYTES))
