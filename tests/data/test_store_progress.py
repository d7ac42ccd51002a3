"""How far prepare_data is, and that it refuses a lossy vocabulary as soon as that is certain."""

import gzip
import json
from pathlib import Path

import pytest

from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.prepare import store_progress, write_shard
from block_recurrent.data.prepare.store_progress import COLUMNS, StoreProgress
from block_recurrent.data.prepare.store_writer import Shard
from block_recurrent.data.prepare.text_source import open_texts
from block_recurrent.errors import UserError
from preparing import TEXTS, bind, contents, write_texts
from text_formats import archive
from vocabularies import sentencepiece_model

ROWS = "".join(json.dumps({"id": i % 50, "text": f"row {i}\n" * 99}) + "\n" for i in range(300))


def shares_of(texts, folder: Path, num_shards: int) -> list[list[float]]:
    """The share of each shard that has been read, after each of its pieces."""
    found = []
    for split in texts.passes:
        for index in range(num_shards):
            shard = Shard("text_files", dict.fromkeys(split), index, num_shards, folder)
            size = max(texts.size(shard), 1)
            found.append([texts.done / size for _ in texts.pieces(shard)])
    return found


@pytest.mark.parametrize(
    "files, options",
    [
        ({"a.jsonl": ROWS.encode(), "b.jsonl.gz": gzip.compress(ROWS.encode())}, {}),
        ({"a.tar.gz": archive("gz", {f"{i}.txt": ROWS.encode() for i in range(9)})}, {}),
        ({"a.jsonl": ROWS.encode()}, {"group_by": "id"}),
        ({f"{i}.txt": b"text " * 9000 for i in range(40)}, {"held_out": ("1.txt", "2.txt")}),
    ],
)
def test_the_share_that_has_been_read_grows_to_the_whole(files, options, tmp_path):
    write_texts(tmp_path / "some", files)
    texts = open_texts(
        "text_files", DataConfig("text_files", str(tmp_path / "some"), **options), "anywhere"
    )
    (tmp_path / "store").mkdir()
    texts.begin(tmp_path / "store")
    for shares in shares_of(texts, tmp_path / "store", 2):
        assert shares == sorted(shares) and (not shares or 0.9 < shares[-1] < 1.01)


def test_the_share_within_a_shard(tmp_path):
    write_texts(tmp_path, {"a.jsonl": (json.dumps({"text": "x" * 2**16}).encode() + b"\n") * 99})
    texts = open_texts(
        "text_files", DataConfig("text_files", str(tmp_path / "a.jsonl")), "anywhere"
    )
    (shares,) = shares_of(texts, tmp_path, 1)
    assert len({round(share, 1) for share in shares}) > 5


@pytest.fixture
def progress(tmp_path):
    """Makes the progress of shards of two tasks, the last of which is finished."""
    shown = []

    def make(sizes, allow_lossy: bool = False) -> tuple[StoreProgress, list]:
        names = ["one", "one", "two", "two", "two"]
        shards = [
            Shard(name, {"train": "train"}, i, 5, tmp_path / name) for i, name in enumerate(names)
        ]
        write_texts(tmp_path, {"two/train-00004.json": b"{}"})
        show = lambda *numbers: shown.append(numbers)  # noqa: E731
        return StoreProgress(shards, sizes, allow_lossy, show), shown

    return make


def set_row(progress: StoreProgress, row: int, **counts: int):
    for name, value in counts.items():
        progress.counters.numbers[row, COLUMNS.index(name)] = value


def test_the_share_of_all_work(progress):
    found, shown = progress([100, 100, 0, 200, 1000])
    assert [row for row, _ in found.missing] == [0, 1, 2, 3]
    set_row(found, 0, read=60, documents=3, tokens=10, finished=1)  # less than was expected
    set_row(found, 3, read=250, documents=2, tokens=5)  # and more
    found.update()
    assert shown == [(5, 15, pytest.approx(300 / 401))]


def test_the_share_of_all_work_if_sizes_are_not_known(progress):
    found, shown = progress([None, 100, None, 5, 5])
    set_row(found, 0, read=60, finished=1)
    set_row(found, 1, read=60)
    found.update()
    assert shown == [(0, 0, 0.25)]


@pytest.mark.parametrize(
    "task, sizes, lost, is_certain",
    [
        ("one", 900, 0.009, False),  # of a tenth of the text
        ("one", 900, 0.011, True),
        ("two", 900, 0.05, False),  # one more shard of this task is already finished
        ("two", 900, 0.07, True),
    ],
)
def test_when_a_loss_is_certain(progress, task, sizes, lost, is_certain):
    row = ["one", "two"].index(task) * 2
    all_sizes = [100] * 5
    all_sizes[row + 1] = sizes
    all_sizes[4] = 5000
    compared = store_progress.ENOUGH_COMPARED
    counts = {"read": 100, "tokens": compared, "compared_bytes": compared}
    for allow_lossy in (False, True):
        found, _ = progress(all_sizes, allow_lossy)
        set_row(found, row, **counts, lost_bytes=int(compared * lost))
        if is_certain and not allow_lossy:
            with pytest.raises(UserError, match=f"does not keep the text of {task}: "):
                found.update()
        else:
            found.update()
    found, _ = progress(all_sizes)
    few = counts | {"compared_bytes": compared - 1, "lost_bytes": compared - 1}
    set_row(found, row, **few)
    found.update()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_the_refusal_comes_before_all_is_written(processes, place, run, prepare, monkeypatch):
    """And what is finished is kept."""
    (place / "my.model").write_bytes(sentencepiece_model())
    code = b"def main():\n    for line in  lines:\n        print(line)\n" * 20_000
    monkeypatch.setattr(write_shard, "REPORT_EVERY", 1)
    write_texts(place / "code", {f"{i}.py": code for i in range(16)})
    options = bind(data__path="code", prepare__vocabulary="my.model", data__held_out="1.py")
    status, out, err = run(
        "--output=store", *TEXTS, *options, *bind(prepare__num_processes=processes)
    )
    assert status == 2 and err.count("\n") == 1
    assert err.startswith("error: the vocabulary does not keep the text of text_files: ")
    assert "prepare.allow_lossy_vocabulary = True; finished shards are kept" in err
    finished = {path.name for path in (place / "store.partial").glob("train-*.json")}
    assert len(finished) < 15 and not list(place.glob("store.partial/*.tmp"))
    before = contents(place / "store.partial")
    out = prepare("store", *TEXTS, *options, *bind(prepare__allow_lossy_vocabulary=True))
    assert (f"{len(finished)} of 16 shards are already complete" in out) == bool(finished)
    kept = {f"{name[:-5]}.{suffix}" for name in finished for suffix in ("tokens", "json")}
    after = contents(place / "store")
    assert {name: before[name] for name in kept} == {name: after[name] for name in kept}
