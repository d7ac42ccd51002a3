"""How fast prepare_data is, against the tokenizer alone on as many cores.

    python benchmarks/prepare_data.py [--megabytes=400] [--processes=2]

Two corpora, one twice as large as the other, are prepared; what the second takes longer leaves out
the start of the program. The same is done with the tokenizer alone: what seqio calls (TensorFlow
Text), and SentencePiece itself. Processor time is reported too, because it holds on a busy machine.
"""

import argparse
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import sentencepiece

ROOT = Path(__file__).parent.parent
PIECE = 2**20

ALONE = """
import sys
from block_recurrent.data.quiet_tensorflow import import_tensorflow
import_tensorflow()
import tensorflow as tf
from block_recurrent.data.seqio_vocabularies import load_vocabulary
how, vocabulary, *paths = sys.argv[1:]
vocabulary = load_vocabulary(vocabulary)
encode = vocabulary.encode_tf if how == "seqio" else vocabulary.tokenizer.EncodeAsNumpy
for path in paths:
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            encode(piece)
"""


def write_corpus(folder: Path, megabytes: int) -> Path:
    """Files of 1 MB of Python's own source."""
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
    """On the clock and of the processor, for commands that run at the same time."""
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
    parts = [paths[number::processes] for number in range(processes)]
    return seconds_of(*([sys.executable, "-c", ALONE, how, vocabulary, *part] for part in parts))


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
            measured = {"prepare_data": prepare, "seqio's tokenizer alone": tokenize}
            options = {"seqio's tokenizer alone": ["seqio"]}
            if vocabulary == model:
                measured["SentencePiece alone"] = tokenize
                options["SentencePiece alone"] = ["directly"]
            print("bytes" if vocabulary == "bytes" else "SentencePiece, 8,000 pieces")
            for name, run in measured.items():
                more = options.get(name, [])
                small, large = (run(c, vocabulary, arguments.processes, *more) for c in corpora)
                clock, processor = (half / (b - a) for a, b in zip(small, large, strict=True))
                print(
                    f"  {name}: {clock:.1f} MB/s with {arguments.processes} processes, "
                    f"{processor:.1f} MB a second of a processor"
                )


if __name__ == "__main__":
    main()
