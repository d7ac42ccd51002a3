"""Speed and memory of reading a token store in lanes, and the time to resume.

    python benchmarks/data_reader.py [--tokens 5e6 50e6 500e6 5e9] [--json FILE]

Makes stores of uint16 tokens in a temporary folder (10 MB to 10 GB by default, the largest as
sparse files). Reads each in a separate process, from the page cache if it fits there, in batches of
32 × 4096 tokens with windows of 512.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from block_recurrent.data.lanes import Lanes
from block_recurrent.data.prefetch import prefetch
from block_recurrent.data.prepare.store_writer import ShardWriter, finish_store, write_json
from block_recurrent.data.store import open_stores

ROWS, SEGMENT, WINDOW = 32, 4096, 512
DOCUMENT = 100_000  # tokens; a typical length of a book
MAX_DENSE = 10**9  # tokens; larger stores are sparse


def make_store(folder: Path, num_tokens: int):
    """Makes a store of random documents; a large one is sparse, and its checksum is not updated."""
    tokens = np.random.default_rng(0).integers(3, 32_000, DOCUMENT, np.uint16)
    count = max(num_tokens // DOCUMENT, 1)
    sparse = num_tokens > MAX_DENSE
    with ShardWriter(folder, "train", 0, 32_000) as writer:
        for document in range(count):
            writer.add(tokens[:0] if sparse else tokens, b"x" * 8)
            writer.end_document(str(document))
    if sparse:
        make_sparse(folder, count)
    finish_store(
        folder,
        task="benchmark",
        vocabulary={"kind": "other", "size": 32_000, "eos": 1},
        shards={"train": 1},
    )


def make_sparse(folder: Path, count: int):
    """Extends the tokens file without writing it, and sets the documents' lengths."""
    path = folder / "train-00000.json"
    metadata = json.loads(path.read_text())
    os.truncate(folder / "train-00000.tokens", count * DOCUMENT * 2)
    table = np.tile(np.array([DOCUMENT, 8, 1], "<i8"), (count, 1))
    table.tofile(folder / "train-00000.documents")
    metadata["tokens"] = count * DOCUMENT
    metadata["files"]["train-00000.tokens"]["bytes"] = count * DOCUMENT * 2
    digest = hashlib.sha256(table.tobytes()).hexdigest()
    metadata["files"]["train-00000.documents"]["sha256"] = digest
    write_json(path, metadata)


def measure(folder: Path) -> dict[str, float]:
    """Reads a store. Reports speed, times, and the peak memory of this process."""
    import resource

    began = time.perf_counter()
    ((store, _),) = open_stores(folder)["train"]
    lanes = Lanes(store, ROWS, SEGMENT, WINDOW)
    start = lanes.initial_position()
    _, position = lanes.read(start)
    opening = time.perf_counter() - began
    number = max(400, min(store.num_tokens // (ROWS * SEGMENT), 2000))
    for _ in range(number):  # once before, so that pages are cached
        _, position = lanes.read(position)
    far = position
    began = time.perf_counter()
    position = start
    for _ in range(number):
        _, position = lanes.read(position)
    reading = (time.perf_counter() - began) / number
    with prefetch(lanes, start) as batches:
        next(batches)
        began = time.perf_counter()
        for _ in range(number):
            next(batches)
        prefetching = (time.perf_counter() - began) / number
    return {
        "tokens": store.num_tokens,
        "bytes": store.num_tokens * 2,
        "tokens_per_second": ROWS * SEGMENT / reading,
        "tokens_per_second_prefetched": ROWS * SEGMENT / prefetching,
        "seconds_to_open": opening,
        "seconds_to_resume_at_start": seconds_to_resume(folder, start),
        "seconds_to_resume_far": seconds_to_resume(folder, far),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def seconds_to_resume(folder: Path, position) -> float:
    """Time to open the store and read the batch at a position; the best of five."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        ((store, _),) = open_stores(folder)["train"]
        Lanes(store, ROWS, SEGMENT, WINDOW).read(position)
        times.append(time.perf_counter() - began)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=float, nargs="+", default=[5e6, 50e6, 500e6, 5e9])
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)  # for the process that reads
    arguments = parser.parse_args()
    if arguments.store:
        print(json.dumps(measure(arguments.store)))
        return
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"NumPy {np.__version__}"
    )
    print(
        f"{'store':>10} {'tokens/s':>14} {'prefetched':>14} {'open':>9} {'resume':>9} "
        f"{'far':>9} {'memory':>9}"
    )
    results = []
    for num_tokens in arguments.tokens:
        with tempfile.TemporaryDirectory() as folder:
            make_store(Path(folder), int(num_tokens))
            output = subprocess.run(
                [sys.executable, __file__, "--store", folder], check=True, stdout=subprocess.PIPE
            ).stdout
        result = json.loads(output)
        results.append(result)
        print(
            f"{result['bytes'] / 1e6:>7,.0f} MB {result['tokens_per_second']:>14,.0f} "
            f"{result['tokens_per_second_prefetched']:>14,.0f} "
            f"{1e3 * result['seconds_to_open']:>6.1f} ms "
            f"{1e3 * result['seconds_to_resume_at_start']:>6.1f} ms "
            f"{1e3 * result['seconds_to_resume_far']:>6.1f} ms "
            f"{result['peak_memory_mib']:>5.0f} MiB",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
