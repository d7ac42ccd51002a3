"""Speed of prepare_data, compared with decompression, parsing and tokenizer alone.

    python benchmarks/prepare_data.py [--megabytes=400] [--processes=2] [--repeats=3]

For text files, JSON lines compressed by zstd, and parquet, with bytes, a byte-level BPE
(tokenizer.json) and a unigram model of SentencePiece. Both read the same files with the same
libraries, in the same number of processes. Each is run on two corpora, one twice as large as the
other. The difference of their times excludes the start of the program. Reports the median over the
repeats and the range.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow
import zstandard
from pyarrow import parquet

from block_recurrent.data.vocabulary_training import train_bpe, train_unigram

ROOT = Path(__file__).parent.parent
FILE_MEGABYTES = 10
ROW_BYTES = 8000  # of text; a row of The Pile has 6 kB on average
FORMATS = ("txt", "jsonl.zst", "parquet")

ALONE = """
import io, sys
import orjson, zstandard
from pyarrow import parquet
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from block_recurrent.data.vocabularies import ByteVocabulary

def texts(path):
    if path.endswith(".txt"):
        with open(path, "rb") as file:
            while piece := file.read(2**20):
                yield piece
    elif path.endswith(".parquet"):
        for batch in parquet.ParquetFile(path).iter_batches(columns=["text"]):
            for text in batch.column(0).to_pylist():
                yield text.encode()
    else:
        with io.BufferedReader(zstandard.open(path, "rb"), 2**20) as file:
            for line in file:
                yield orjson.loads(line)["text"].encode()

vocabulary, *paths = sys.argv[1:]
if vocabulary == "bytes":
    encode = ByteVocabulary().encode
elif vocabulary.endswith(".json"):
    tokenizer = Tokenizer.from_file(vocabulary)
    def encode(text):
        return tokenizer.encode_batch_fast([text.decode()], add_special_tokens=False)[0].ids
else:
    encode = SentencePieceProcessor(model_file=vocabulary).EncodeAsNumpy
for path in paths:
    for text in texts(path):
        encode(text)
"""


def standard_library() -> str:
    paths = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    return "".join(path.read_text(encoding="utf-8", errors="ignore") for path in paths)


def write_corpus(folder: Path, kind: str, megabytes: int, source: str) -> Path:
    """Writes files of 10 MB of text each, from the source of Python's standard library."""
    folder.mkdir(parents=True)
    for number in range(megabytes // FILE_MEGABYTES):
        start = number * 777_777 % (len(source) - FILE_MEGABYTES * 10**6)
        text = source[start : start + FILE_MEGABYTES * 10**6]
        path = folder / f"{number:05}.{kind}"
        rows = [{"text": text[at : at + ROW_BYTES]} for at in range(0, len(text), ROW_BYTES)]
        if kind == "txt":
            path.write_text(text, encoding="utf-8")
        elif kind == "parquet":
            parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=1000)
        else:
            with zstandard.open(path, "wb") as file:
                file.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return folder


def train_models(folder: Path, source: str) -> list[Path]:
    """Vocabularies of 8,000 tokens that lose nothing."""
    lines, paths = source[: 10**7].splitlines(keepends=True), []
    for name, train in (("bpe.json", train_bpe), ("unigram.model", train_unigram)):
        paths.append(folder / name)
        paths[-1].write_bytes(train(lines, 8000))
    return paths


def seconds_of(*commands: list[str]) -> float:
    """Time that commands take that run at the same time."""
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        for command in commands
    ]
    assert not any([process.wait() for process in processes])
    return time.perf_counter() - start


def prepare(corpus: Path, vocabulary: str, processes: int) -> float:
    with tempfile.TemporaryDirectory(dir=corpus.parent) as output:
        command = [sys.executable, "-m", "block_recurrent.prepare_data", f"--output={output}"]
        command += ["--gin_file=gin/data/text_files.gin"]
        values = {"data.path": str(corpus), "prepare.vocabulary": vocabulary}
        values["prepare.num_processes"] = processes
        command += [f"--gin_bindings={name} = {value!r}" for name, value in values.items()]
        return seconds_of(command)


def tokenize(corpus: Path, vocabulary: str, processes: int) -> float:
    paths = sorted(map(str, corpus.iterdir()))
    return seconds_of(
        *(
            [sys.executable, "-c", ALONE, vocabulary, *paths[number::processes]]
            for number in range(processes)
        )
    )


def speed(corpora: list[Path], run: Callable[[Path], float]) -> float:
    """MB of text per second."""
    small, large = map(run, corpora)
    return len(list(corpora[0].iterdir())) * FILE_MEGABYTES / (large - small)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    sizes = arguments.megabytes // 2, arguments.megabytes
    with tempfile.TemporaryDirectory() as temporary:
        folder, source = Path(temporary), standard_library()
        vocabularies = "bytes", *map(str, train_models(folder, source))
        for kind in FORMATS:
            corpora = [
                write_corpus(folder / kind / str(size), kind, size, source) for size in sizes
            ]
            for vocabulary in vocabularies:
                common = {"vocabulary": vocabulary, "processes": arguments.processes}
                runs = [functools.partial(run, **common) for run in (prepare, tokenize)]
                pairs = [[speed(corpora, run) for run in runs] for _ in range(arguments.repeats)]
                ours, alone = (statistics.median(column) for column in zip(*pairs, strict=True))
                ratios = sorted(a / b for a, b in pairs)
                print(
                    f"{kind:9} {Path(vocabulary).stem:7}  prepare_data {ours:,.1f} MB/s, alone "
                    f"{alone:,.1f} MB/s, ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to "
                    f"{ratios[-1]:.2f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
