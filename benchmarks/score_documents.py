"""Scores whole held-out documents of the kernel corpus one by one, with the memory carried.

    python benchmarks/score_documents.py --workdir=runs/memory/fixed_skip/0 --json=FILE

For each document: bits by position, and bits per identifier by the distance in tokens from its last
occurrence, since beyond the reach of attention only a memory knows it. benchmarks/results_memory.py
compares models by these numbers, document by document.

Held-out directories are split in two by a hash of their names: `tuning`, for choices made before
the comparison, and `test`, for the comparison. Of each directory at most three documents count, so
that no driver dominates.
"""

import argparse
import hashlib
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from block_recurrent import BlockRecurrentTransformer
from block_recurrent.console.cli import run_main
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.documents import Documents
from block_recurrent.model.losses import token_scores
from block_recurrent.training.workdir import load_run

POSITIONS = (0, 512, 2048, 8192)  # first token of each bin
DISTANCES = (0, 160, 1024, 8192)  # first token of each bin; new identifiers have a bin of their own
ROWS, SEGMENT = 24, 512
PER_DIRECTORY = 3
IDENTIFIER = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{4,}")


def directory_of(name: str) -> str:
    """The directory of the kernel that a document comes from, as in its name."""
    return Path(name).name.rpartition("-")[0]


def choose(names: Sequence[str], part: str) -> list[int]:
    """The documents of a part, 'tuning' or 'test'."""

    def digest(text: str) -> bytes:
        return hashlib.sha256(text.encode()).digest()

    directories = defaultdict(list)
    for index, name in enumerate(names):
        directories[directory_of(name)].append(index)
    chosen = []
    for directory, indices in directories.items():
        if (part == "tuning") == (digest(directory)[1] % 4 == 0):
            indices.sort(key=lambda index: digest(Path(names[index]).name))
            chosen += indices[:PER_DIRECTORY]
    return sorted(chosen)


def read(documents: Documents, index: int, num_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of the first bytes of a document, and where each of them begins in its text.

    The starts have one element more: the end of the last token.
    """
    tokens = documents.tokens(index, 0, min(num_bytes, int(documents.lengths[index]) - 1))
    decode = documents.vocabulary.decode
    lengths = {token: len(decode([token])) for token in np.unique(tokens).tolist()}
    starts = np.cumsum([0, *(lengths[token] for token in tokens.tolist())])
    count = np.searchsorted(starts, num_bytes, side="right") - 1
    return tokens[:count], starts[: count + 1]


def score(model: BlockRecurrentTransformer, texts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Bits of each token of each text, in the order of the texts."""
    graphdef, params = nnx.split(model)
    params = nnx.to_pure_dict(params)

    @jax.jit
    def step(params, tokens, targets, state):
        model = nnx.merge(graphdef, params)
        features, state = model.features(tokens, state, None)
        return token_scores(model, features, targets).nats / np.log(2), state

    for group in (texts[i : i + ROWS] for i in range(0, len(texts), ROWS)):
        longest = -(-max(map(len, group)) // SEGMENT) * SEGMENT
        targets = np.zeros((ROWS, longest), np.int32)
        for row, text in zip(targets, group, strict=False):
            row[: len(text)] = text
        inputs = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
        state, bits = model.initial_state(ROWS), []
        for first in range(0, longest, SEGMENT):
            columns = slice(first, first + SEGMENT)
            each, state = step(params, inputs[:, columns], targets[:, columns], state)
            bits.append(np.asarray(each))
        for row, text in zip(np.concatenate(bits, axis=1), group, strict=False):
            yield row[: len(text)]


def identifier_bits(text: bytes, starts: np.ndarray, bits: np.ndarray) -> dict[str, list[float]]:
    """How many identifiers there are, and bits of their tokens: new ones, then by distance."""
    total = np.concatenate([[0], np.cumsum(bits, dtype=np.float64)])
    counts, sums = np.zeros(1 + len(DISTANCES), int), np.zeros(1 + len(DISTANCES))
    last = {}
    for match in IDENTIFIER.finditer(text):
        first, end = np.searchsorted(starts, match.span())
        before = last.get(match[0])
        distance = None if before is None else first - before
        place = 0 if distance is None else np.searchsorted(DISTANCES, distance, side="right")
        counts[place] += 1
        sums[place] += total[end] - total[first]
        last[match[0]] = first
    return {"count": counts.tolist(), "bits": sums.round(1).tolist()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--part", choices=("tuning", "test"), default="test")
    parser.add_argument("--bytes", type=int, default=2**15, help="of each document")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    config, model, step = load_run(arguments.workdir)
    documents = load_documents(config.data)["held_out"]
    chosen = choose(documents.names, arguments.part)
    chosen.sort(key=lambda index: documents.lengths[index])
    texts = [read(documents, index, arguments.bytes) for index in chosen]
    results = {}
    bits = score(model, [tokens for tokens, _ in texts])
    for index, (tokens, starts), each in zip(chosen, texts, bits, strict=True):
        cuts = np.minimum([*POSITIONS, len(each)], len(each))
        results[documents.names[index]] = {
            "bytes": np.diff(starts[cuts]).tolist(),
            "bits": [round(float(each[a:b].sum()), 1) for a, b in itertools.pairwise(cuts)],
            "identifiers": identifier_bits(documents.vocabulary.decode(tokens), starts, each),
        }
    total = sum(sum(one["bits"]) for one in results.values())
    size = sum(sum(one["bytes"]) for one in results.values())
    print(f"{total / size:.4f} bits per byte after {step} steps, {len(results)} documents")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(results, separators=(",", ":"))
    arguments.json.write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_main(main)
