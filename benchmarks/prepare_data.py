"""Speed of prepare_data, compared with the tokenizer alone on the same number of cores.

    python benchmarks/prepare_data.py [--megabytes=400] [--processes=2]

Prepares two corpora, one twice as large as the other. The difference of their times excludes the
start of the program. Does the same with the tokenizer alone: the one that seqio calls (TensorFlow
Text), and SentencePiece itself. Also reports processor time, which a busy machine disturbs less.
"""

import argparse
import functools
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sentencepiece

ROOT = Path(__file__).parent.parent
REPEAT_BYTES = 20  # passes of the byte tokenizer, of which one would be too short to measure

ALONE = """
import sys
from block_recurrent.data.prepare.quiet_tensorflow import import_tensorflow
import_tensorflow()
import seqio
import tensorflow as tf
how, name, repeat, *paths = sys.argv[1:]
vocabulary = seqio.ByteVocabulary() if name == "bytes" else seqio.SentencePieceVocabulary(name)
encode = vocabulary.encode_tf if how == "seqio" else vocabulary.tokenizer.EncodeAsNumpy
for path in paths * int(repeat):
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            encode(piece)
"""


def write_corpus(folder: Path, megabytes: int) -> Path:
    """Writes files of 1 MB each, from the source of Python's standard library."""
    folder.mkdir()
    paths = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    source = b"".join(path.read_bytes() for path in paths)
    source = source.decode(errors="ignore").encode()
    for number in range(megabytes):
        start = number * 777_777 % (len(source) - 10**6)
        (folder / f"{number:05}.txt").write_bytes(source[start : start + 10**6])
    return folder


def train_model(folder: Path, corpus: Path) -> Path:
    lines = "\n".join(path.read_text(errors="ignore") for path in sorted(corpus.iterdir())[:20])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines.splitlines()),
        model_prefix=str(folder / "model"),
        vocab_size=8000,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
    )
    return folder / "model.model"


def seconds_of(*commands: list[str]) -> tuple[float, float]:
    """Wall-clock and processor seconds of commands that run at the same time."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        for command in commands
    ]
    assert not any(process.wait() for process in processes)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, processor


def prepare(corpus: Path, vocabulary: str, processes: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(dir=corpus.parent) as output:
        command = [sys.executable, "-m", "block_recurrent.prepare_data", f"--output={output}"]
        command += ["--gin_file=gin/data/text_files.gin"]
        values = {"data.path": str(corpus), "prepare.vocabulary": vocabulary}
        values["prepare.num_processes"] = processes
        command += [f"--gin_bindings={name} = {value!r}" for name, value in values.items()]
        return seconds_of(command)


def tokenize(corpus: Path, vocabulary: str, processes: int, how: str) -> tuple[float, float]:
    paths = sorted(map(str, corpus.iterdir()))
    repeat = REPEAT_BYTES if vocabulary == "bytes" else 1
    commands = (
        [sys.executable, "-c", ALONE, how, vocabulary, str(repeat), *paths[number::processes]]
        for number in range(processes)
    )
    clock, processor = seconds_of(*commands)
    return clock / repeat, processor / repeat


def measure(corpora: list[Path], run: Callable[[Path], tuple[float, float]]) -> str:
    small, large = map(run, corpora)
    megabytes = len(list(corpora[0].iterdir()))
    clock, processor = (megabytes / (b - a) for a, b in zip(small, large, strict=True))
    return f"{clock:,.1f} MB/s, {processor:,.1f} MB per processor second"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, half = Path(temporary), arguments.megabytes // 2
        corpora = [write_corpus(folder / str(size), size) for size in (half, 2 * half)]
        model = str(train_model(folder, corpora[0]))
        for vocabulary in (model, "bytes"):
            common = {"vocabulary": vocabulary, "processes": arguments.processes}
            runs = {"prepare_data": functools.partial(prepare, **common)}
            runs["seqio's tokenizer"] = functools.partial(tokenize, how="seqio", **common)
            if vocabulary == model:
                runs["SentencePiece"] = functools.partial(tokenize, how="directly", **common)
            for name, run in runs.items():
                print(f"{Path(vocabulary).stem}  {name}: {measure(corpora, run)}", flush=True)


if __name__ == "__main__":
    main()
