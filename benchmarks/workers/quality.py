"""What the workers of time_to_quality.py share: slices of training time, and how text is scored.

Needs NumPy beside the standard library, since it runs in the Python of either program.
"""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}
# Scores tokens [rows, chunk] as the continuations of inputs of that shape, after a state (None at
# the start of the documents). Returns nats of that shape, and the state after them.
Score = Callable[[np.ndarray, np.ndarray, Any], tuple[np.ndarray, Any]]


class Slices:
    """Trains a slice of time at each call. A step begins only while there is time left.

    Args:
      step: makes an update, and returns when it is done.
      seconds: of a slice. What one slice takes too long, the next one has less.
      clock: returns seconds.
      num_steps: after which training ends; None: never.
    """

    def __init__(
        self,
        step: Callable[[], None],
        seconds: float,
        clock: Callable[[], float],
        num_steps: int | None = None,
    ):
        self.step, self.seconds, self.clock, self.num_steps = step, seconds, clock, num_steps
        self.due = self.trained = 0.0
        self.steps = 0

    def __call__(self) -> dict:
        """Trains. Returns the seconds and the steps of training so far."""
        self.due += self.seconds
        start = before = self.clock()
        while self.trained + before - start < self.due and self.steps != self.num_steps:
            self.step()
            self.steps += 1
            before = self.clock()
        self.trained += before - start
        return {"trained_seconds": self.trained, "steps": self.steps}


def sample(folder: Path, count: int | None, most: int | None) -> list[bytes]:
    """The first bytes of some files of a folder, the same for all callers.

    Args:
      folder: where the files are.
      count: how many files, in the order of a hash of their names; None: all.
      most: bytes of each; None: all.
    """
    files = sorted(folder.iterdir(), key=lambda file: hashlib.sha256(file.name.encode()).digest())
    return [file.read_bytes()[:most] for file in files[:count]]


def score_documents(
    documents: Sequence[bytes],
    score: Score,
    rows: int,
    chunk: int,
    first: Sequence[int],
    shift: int,
) -> list[float]:
    """Bits of each document, all its bytes but the first, with the memory carried through it.

    The first byte is left out because a program may have nothing to predict it from.

    Args:
      documents: to score.
      score: see `Score`.
      rows: documents at the same time.
      chunk: tokens of each at the same time.
      first: tokens that come before a document.
      shift: the token of byte 0.
    """
    bits = []
    for begin in range(0, len(documents), rows):
        group = documents[begin : begin + rows]
        lengths = np.zeros(rows, int)
        lengths[: len(group)] = [len(first) + len(document) for document in group]
        chunks = -(-(lengths.max() - 1) // chunk)
        tokens = np.zeros((rows, chunks * chunk + 1), np.int32)
        for row, document in enumerate(group):
            tokens[row, : len(first)] = first
            tokens[row, len(first) : lengths[row]] = shift + np.frombuffer(document, np.uint8)
        positions = np.arange(tokens.shape[1])
        counted = (positions > len(first)) & (positions < lengths[:, None])
        nats, state = np.zeros(rows), None
        for start in range(0, chunks * chunk, chunk):
            before, after = slice(start, start + chunk), slice(start + 1, start + chunk + 1)
            scores, state = score(tokens[:, before], tokens[:, after], state)
            nats += np.sum(scores * counted[:, after], axis=1, dtype=float)
        bits += (nats[: len(group)] / math.log(2)).tolist()
    return bits


def measures(spec: dict, slices: Slices, **scoring) -> dict[str, Callable[[], dict]]:
    """What a worker does when it is told to: train a slice, score some documents or all of them.

    Args:
      spec: has the corpus, and how much of it is scored: "some" and "all".
      slices: train.
      scoring: arguments of `score_documents`.
    """
    folder = Path(spec["corpus"], "held_out")

    def scorer(part: str) -> Callable[[], dict]:
        documents = sample(folder, *spec[part])
        sizes = [len(document) - 1 for document in documents]
        return lambda: {"bytes": sizes, "bits": score_documents(documents, **scoring)}

    return {"train": slices, "some": scorer("some"), "all": scorer("all")}
