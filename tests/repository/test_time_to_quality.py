"""benchmarks/time_to_quality.py: slices of training, scores, and what is read from curves."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
for folder in (BENCHMARKS, BENCHMARKS / "workers"):
    sys.path.insert(0, str(folder))

from contenders import Contender  # noqa: E402
from quality import Slices, sample, score_documents  # noqa: E402
from quality_curves import crossing, difference, level, of, times_to_level  # noqa: E402
from time_to_quality import GIN_FILES, start, theirs, turns  # noqa: E402

from block_recurrent.config.run_config import load  # noqa: E402
from block_recurrent.errors import UserError  # noqa: E402

# A Python with lucidrains' package, for the rehearsal.
LUCIDRAINS = os.environ.get("LUCIDRAINS_PYTHON", sys.executable)


class Clock:
    """Stands still except for steps, which take 2 s, and what else a test adds to it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def step(self):
        self.now += 2


def test_slices_make_up_for_steps_that_took_too_long():
    clock = Clock()
    slices = Slices(clock.step, 5, clock)
    assert slices() == {"trained_seconds": 6, "steps": 3}
    clock.now += 100  # others train, and documents are scored
    assert slices() == {"trained_seconds": 10, "steps": 5}
    assert slices() == {"trained_seconds": 16, "steps": 8}


def test_training_ends_after_its_last_step():
    clock = Clock()
    slices = Slices(clock.step, 5, clock, num_steps=4)
    assert [slices()["steps"] for _ in range(3)] == [3, 4, 4]
    assert slices.trained == 8


@pytest.mark.parametrize("rows, chunk", [(1, 4), (2, 3), (4, 64)])
@pytest.mark.parametrize("first, shift", [([], 0), ([0], 3)])
def test_every_byte_but_the_first_is_scored_once_after_its_own_document(rows, chunk, first, shift):
    documents = [b"abcdefgh", b"xy", b"\0" * 5]

    def score(inputs, targets, state):
        """Nats: the sum of all tokens read so far, and the target."""
        state = np.zeros((rows, 1)) if state is None else state
        read = state + np.cumsum(inputs, axis=1)
        return read + targets, read[:, -1:]

    expected = []
    for document in documents:
        tokens = np.array([*first, *(shift + byte for byte in document)])
        expected.append(sum(tokens[: n + 1].sum() for n in range(len(first) + 1, len(tokens))))
    bits = score_documents(documents, score, rows, chunk, first, shift)
    assert bits == pytest.approx(np.array(expected) / math.log(2))


def test_fewer_documents_are_a_part_of_more(tmp_path):
    for number in range(9):
        (tmp_path / f"{number}.c").write_bytes(b"%d and more" % number)
    few, many = sample(tmp_path, 3, 1), sample(tmp_path, None, None)
    assert [document[:1] for document in many[:3]] == few and len(many) == 9
    assert sorted(many) == [file.read_bytes() for file in sorted(tmp_path.iterdir())]


def test_all_train_equally_long_before_any_is_scored():
    found = list(turns(3, 5, 2))
    assert found[:3] == [(0, "train"), (1, "train"), (2, "train")]
    assert found[3:6] == [(1, "train"), (2, "train"), (0, "train")]
    scored = [place for place, (_, what) in enumerate(found) if what == "some"]
    assert scored == [6, 7, 8, 15, 16, 17, 21, 22, 23]
    for worker in range(3):
        assert found.count((worker, "train")) == 5 and found.count((worker, "some")) == 3


def test_an_update_of_theirs_reads_as_many_tokens_as_ours():
    ours = load(GIN_FILES, ["data.path = 'x'"])
    spec = theirs(ours, 10**6)
    assert spec["crop_length"] * spec["batch_size"] == (
        ours.train.batch_size * ours.train.segment_length
    )


def test_a_program_that_does_not_start(tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text("import nowhere_to_be_found")
    message = "theirs does not start with .*: ModuleNotFoundError: No module named 'nowhere_to_be_"
    with pytest.raises(UserError, match=message):
        start(Contender("theirs", worker, {}))
    with pytest.raises(UserError, match="does not start with no/python: .* No such file"):
        start(Contender("theirs", worker, {}, python="no/python"))


def test_the_time_at_which_a_curve_is_at_a_level():
    curve = [(10, 4.0), (20, 3.0), (30, 3.2), (40, 2.0)]
    assert crossing(curve, 3.5) == 15
    assert crossing(curve, 3.0) == 20
    assert crossing(curve, 2.6) == pytest.approx(35)
    assert crossing(curve, 1.9) is None
    assert crossing(curve, 5.0) == 10


def run(program: str, rate: float, seed: int, curve, bits=(), steps=None) -> dict:
    final = {"final": {"bytes": [100, 300], "bits": list(bits)}} if bits else {}
    spec = {"program": program, "learning_rate": rate, "seed": seed, "num_steps": steps}
    return spec | {"curve": curve} | final


RUNS = [
    run("ours", 0.1, 0, [(30, 4.0), (60, 2.0)], (200, 300), steps=90),
    run("ours", 0.1, 0, [(15, 4.0), (20, 2.8)], steps=30),
    run("ours", 0.2, 0, [(30, 4.0), (60, 3.9)], steps=90),
    run("lucidrains", 0.001, 0, [(30, 5.0), (60, 2.0)]),
    run("lucidrains", 0.003, 0, [(30, 4.5), (60, 3.1)], (250, 700)),
    run("ours", 0.1, 1, [(30, 4.0), (60, 3.5)], (200, 500), steps=90),
    run("ours", 0.1, 1, [(15, 4.0), (20, 3.8)], steps=30),
    run("lucidrains", 0.003, 1, [(30, 4.5), (60, 2.9)], (250, 700)),
]


def test_best_are_the_most_seeds_with_the_lowest_mean():
    assert of(RUNS, "lucidrains") == [RUNS[4], RUNS[7]]  # 0.001 has one seed
    assert of(RUNS, "ours") == [RUNS[0], RUNS[5]]
    assert level(RUNS) == 3.0


def test_the_time_to_the_level_by_steps_and_seed():
    expected = {90: [(45, 0.75), (None, math.inf)], 30: [(19 + 1 / 6, 23 / 72), (None, math.inf)]}
    found = times_to_level(RUNS)
    assert found.keys() == expected.keys()
    for steps, times in expected.items():
        assert [time for time, _ in found[steps]] == pytest.approx([t for t, _ in times])
        assert [share for _, share in found[steps]] == pytest.approx([s for _, s in times])


def test_the_interval_of_the_difference_is_over_documents_by_their_bytes():
    more, low, high = difference(RUNS)
    # 50 bits more on 100 bytes, and 300 more on 300 bytes
    assert more == 350 / 400 and (low, high) == (0.5, 1.0)


def has_lucidrains() -> bool:
    command = [LUCIDRAINS, "-c", "import block_recurrent_transformer_pytorch"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.slow
def test_rehearsal(tmp_path):
    if not has_lucidrains():
        pytest.skip("LUCIDRAINS_PYTHON names no Python with block-recurrent-transformer-pytorch")
    for split, steps in (("train", (1, 2, 4, 5, 6)), ("held_out", (3, 8, 9))):
        (tmp_path / split).mkdir()
        for step in steps:
            text = "".join(f"line {n * step % 7}\n" for n in range(200 + step))
            (tmp_path / split / f"{step}.c").write_text(text)
    command = [sys.executable, BENCHMARKS / "time_to_quality.py", f"--corpus={tmp_path}"]
    command += [f"--lucidrains_python={LUCIDRAINS}", f"--json={tmp_path / 'found.json'}"]
    command += ["--minutes=0.1", "--slice=2", "--slices_per_score=1", "--threads=1", "--seeds=0,1"]
    command += ["--clock=processor", "--their_learning_rates=0.001,0.01", "--num_steps=3,2500"]
    command += ["--documents=2", "--document_bytes=300"]
    bindings = ["WINDOW_LENGTH = 8", "SEGMENT_LENGTH = 32", "BATCH_SIZE = 16"]
    bindings += ["train.lanes = None", "optimizer.warmup_steps = 1"]
    sizes = {"num_layers": 2, "num_states": 8, "embedding_size": 32, "head_size": 16}
    bindings += [f"BlockRecurrentTransformer.{name} = {size}" for name, size in sizes.items()]
    command += [f"--gin_bindings={binding}" for binding in bindings]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, timeout=600)
    found = json.loads((tmp_path / "found.json").read_text())
    runs = found["runs"]
    assert [run["seed"] for run in runs] == [0, 0, 0, 0, 1, 1, 1]  # theirs at the best rate
    few, ours, lucidrains = runs[4:]
    assert few["steps"] == 3 and len(few["curve"]) < 3
    assert ours["parameters"] == pytest.approx(lucidrains["parameters"], rel=0.05)
    assert ours["tokens_per_step"] == lucidrains["tokens_per_step"]
    for one in (ours, lucidrains):
        seconds, bits = zip(*one["curve"], strict=True)
        assert len(bits) == 3 and sorted(seconds) == list(seconds)
        assert bits[-1] < 4  # untrained: log₂ 256 and more
        assert one["final"]["bytes"] == ours["final"]["bytes"] and len(one["final"]["bytes"]) == 3
