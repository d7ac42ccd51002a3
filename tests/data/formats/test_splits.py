"""What is held out of files of all formats: the same with and without a token store."""

import gzip
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.held_out import document_name, is_held_out
from block_recurrent.data.prepare import streamed_division
from block_recurrent.data.store import open_stores
from block_recurrent.errors import UserError
from preparing import TEXTS, bind, texts_of
from text_formats import COMPRESS, archive, write

BOOK = b"".join(b"Line %d of the book.\n" % i for i in range(3000))


def lines(count: int, size: int = 40, **others) -> bytes:
    rows = ({"text": f"{i} ".ljust(size, "x"), "id": i} | others for i in range(count))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(count: int) -> bytes:
    file = pa.BufferOutputStream()
    parquet.write_table(pa.table({"text": [f"row {i} " * 50 for i in range(count)]}), file)
    return file.getvalue().to_pybytes()


@pytest.fixture
def divided(place, prepare):
    """Divides files by loading them and by making a store, which must have the same result."""

    def divided(files: dict[str, bytes], path: str = "some", **options) -> dict[str, dict]:
        write(place / "some", files)
        splits = load_documents(DataConfig("text_files", str(place / path), **options))
        found = {
            split: {name: documents.raw(i) for i, name in enumerate(documents.names)}
            for split, documents in splits.items()
        }
        named = {f"data__{name}": value for name, value in options.items()}
        prepare("store", *TEXTS, *bind(data__path=path, **named))
        assert open_stores("store").keys() == found.keys()
        assert {split: texts_of("store", split) for split in found} == found
        return found

    return divided


def files_of(found: dict[str, bytes]) -> set[str]:
    """The files that documents are in."""
    return {document_name(name).partition(":")[0] for name in found}


# Few documents


def test_a_few_short_rows(divided):
    found = divided({"a.jsonl": lines(50)})
    assert found["train"] and found["held_out"]
    names = (name for split in found.values() for name in split)
    assert not any(name.endswith("]") for name in names)


def test_a_few_long_rows(divided):
    found = divided({"a.jsonl": lines(3, 50_000)})
    assert {document_name(name) for name in found["held_out"]} <= {
        f"a.jsonl:{i}" for i in (1, 2, 3)
    }
    assert all(name.endswith("]") for name in found["held_out"])


@pytest.mark.parametrize("name", ["book.txt", "book.txt.gz", "book.txt.zst", "book.tar"])
@pytest.mark.parametrize("path", ["some", "some/{}"])
def test_a_book(divided, name, path):
    """In a folder, or as data.path."""
    if name.endswith(".tar"):
        content = archive("", {"book.txt": BOOK})
    else:
        content = COMPRESS[name.removeprefix("book.txt")](BOOK)
    found = divided({name: content}, path.format(name))
    ((head, text),), ((end, rest),) = found["train"].items(), found["held_out"].items()
    assert text + rest == BOOK and text.endswith(b".\n") and 4000 < len(rest) <= 8192
    assert document_name(head) == document_name(end)


def test_text_between_separators(divided):
    text = b"<|endoftext|>".join(b"Part %d.\n" % i * 900 for i in range(7))
    found = divided({"a.txt": text}, "some/a.txt", separator="<|endoftext|>")
    assert sum(map(len, found["held_out"].values())) > 5000
    assert len(found["train"]) >= 6


def test_grouped_rows(divided):
    rows = [{"repo": f"r{i % 3}", "path": i, "text": f"file {i}\n" * 300} for i in range(30)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    found = divided({"a.jsonl": content}, group_by="repo", order_by="path")
    assert {document_name(name) for name in found["train"]} == {"r0", "r1", "r2"}
    assert {document_name(name) for name in found["held_out"]} == {"r0", "r1", "r2"}


def test_another_encoding(divided):
    book = BOOK.decode().replace("Line", "Zeile ü")
    options = {"path": "some/a.txt.gz", "encoding": "utf-16"}
    found = divided({"a.txt.gz": gzip.compress(book.encode("utf-16"))}, **options)
    assert b"".join(found["train"].values()) + b"".join(found["held_out"].values()) == book.encode()


def test_members_of_archives_in_another_encoding(divided):
    texts = {f"{i}.txt": (f"テキスト{i}\n" * 900).encode("shift_jis") for i in range(3)}
    found = divided({"a.zip": archive("zip", texts)}, encoding="shift_jis")
    text = b"".join(found["train"].values()) + b"".join(found["held_out"].values())
    assert text.decode().count("テキスト") == 2700


# Many documents


def test_many_rows_are_held_out_whole(divided):
    found = divided({"a.jsonl": lines(500, 2500), "b.jsonl": lines(5)})
    assert all(is_held_out(name, 20) for name in found["held_out"])
    assert not any(is_held_out(name, 20) for name in found["train"])
    assert len(found["held_out"]) + len(found["train"]) == 505


def test_no_more_is_read_than_is_needed(place, monkeypatch):
    """Whether there is enough held-out text is known after its first 8 KiB."""
    from block_recurrent.data.formats.corpus import Corpus

    read = []
    is_held_out = streamed_division.is_held_out
    monkeypatch.setattr(
        streamed_division, "is_held_out", lambda *a: read.append(a) or is_held_out(*a)
    )
    write(place / "some", {"a.jsonl": lines(9000, 500)})
    corpus = Corpus(DataConfig("text_files", "some"))
    assert streamed_division.StreamedDivision(corpus).few is None and len(read) < 3000


# Names of splits


@pytest.mark.parametrize(
    "files, splits",
    [
        (
            {
                "data/train-00000-of-00002.parquet": table(30),
                "data/train-00001-of-00002.parquet": table(20),
                "data/validation-00000-of-00001.parquet": table(4),
                "data/test-00000-of-00001.parquet": table(3),
                "README.md": b"about",
            },
            {"train": 50, "held_out": 4, "test": 3},
        ),
        (
            {
                "train.jsonl.gz": gzip.compress(lines(9)),
                "val.jsonl": lines(2),
                "test.csv": b"text\nA",
            },
            {"train": 9, "held_out": 2, "test": 1},
        ),
        (
            {
                "c4-train.0.json.gz": gzip.compress(lines(9)),
                "c4-validation.0.json.gz": gzip.compress(lines(2)),
            },
            {"train": 9, "held_out": 2},
        ),
        (
            {
                "all.tar": archive(
                    "", {"w/train.txt": BOOK, "w/valid.txt": b"v" * 9, "w/test.txt": b"t"}
                )
            },
            {"train": 1, "held_out": 1, "test": 1},
        ),
        (
            {"train.txt": BOOK, "dev.zip": archive("zip", {"x.txt": b"x", "y.txt": b"y"})},
            {"train": 1, "held_out": 2},
        ),
    ],
)
def test_names_of_splits(divided, files, splits):
    found = divided(files)
    assert {split: len(texts) for split, texts in found.items()} == splits


def test_names_in_an_archive(divided):
    """Of which data.glob selects some."""
    texts = {"train/a.txt": BOOK, "train/b.md": b"no", "dev/c.txt": b"c", "test/d.txt": b"d"}
    found = divided({"a.tgz": archive("gz", texts)}, "some/a.tgz", glob="**/*.txt")
    assert found == {
        "train": {"a.tgz/train/a.txt": BOOK},
        "held_out": {"a.tgz/dev/c.txt": b"c"},
        "test": {"a.tgz/test/d.txt": b"d"},
    }


def test_a_test_split_is_left_out_of_few_documents(divided):
    found = divided({"a.jsonl": lines(20, 3000), "test.jsonl": lines(5)})
    assert files_of(found["train"]) == files_of(found["held_out"]) == {"a.jsonl"}
    assert files_of(found["test"]) == {"test.jsonl"} and len(found["test"]) == 5


def test_names_that_rows_have(divided):
    """The split follows from the file, whatever its rows are called."""
    files = {"train.jsonl": lines(9), "valid.jsonl": lines(9).replace(b'"id": ', b'"id": 10')}
    found = divided(files, name_field="id")
    assert len(found["train"]) == len(found["held_out"]) == 9
    assert "0" in found["train"] and "100" in found["held_out"]


def test_a_document_with_rows_in_several_splits(divided):
    """It is not trained on."""
    files = {"train.jsonl": lines(6, 99), "test.jsonl": lines(2), "valid.jsonl": lines(4)}
    found = divided(files, group_by="id")
    names = {split: sorted(texts) for split, texts in found.items()}
    assert names == {"train": ["4", "5"], "held_out": ["2", "3"], "test": ["0", "1"]}


def test_an_empty_split(divided):
    """Then what is trained on is divided."""
    found = divided({"train.jsonl": lines(20, 3000), "valid.jsonl": b""})
    assert files_of(found["held_out"]) == {"train.jsonl"}


# data.held_out


@pytest.mark.parametrize(
    "held_out, expected",
    [
        ("b.jsonl.gz", {"b.jsonl.gz"}),
        (("*.csv", "b.*"), {"b.jsonl.gz", "c.csv"}),
        ("c.tar/2.txt", {"c.tar/2.txt"}),
        ("**/[12].txt", {"c.tar/1.txt", "c.tar/2.txt"}),
        ("../other", {"../other/o.jsonl", "../other/p.txt.gz"}),
        ("../other/o.jsonl", {"../o.jsonl"}),
    ],
)
def test_held_out(divided, place, monkeypatch, held_out, expected):
    texts = {f"{i}.txt": b"%d" % i * 99 for i in range(4)}
    files = {"a.jsonl": lines(9), "b.jsonl.gz": gzip.compress(lines(5)), "c.csv": b"text\nC\nD\n"}
    write(place / "other", {"o.jsonl": lines(3), "p.txt.gz": gzip.compress(b"p")})
    (place / "some").mkdir()
    if isinstance(held_out, str) and held_out.startswith(".."):
        held_out = held_out.removeprefix("../")
    found = divided(files | {"c.tar": archive("", texts)}, held_out=held_out)
    assert files_of(found["held_out"]) == expected
    assert not files_of(found["train"]) & expected and files_of(found["train"])


def test_held_out_of_an_archive(divided):
    texts = {f"chapter/{i}.txt": b"%d" % i * 99 for i in range(4)}
    found = divided({"a.zip": archive("zip", texts)}, "some/a.zip", held_out="chapter/2.*")
    assert list(found["held_out"]) == ["a.zip/chapter/2.txt"]


def test_held_out_beside_a_file(divided, place):
    write(place, {"b.jsonl": lines(3)})
    found = divided({"a.jsonl": lines(9)}, "some/a.jsonl", held_out="b.jsonl")
    assert files_of(found["held_out"]) == {"../b.jsonl"} and len(found["train"]) == 9


def test_mistakes(refuse, place):
    write(place / "some", {"a.jsonl": lines(9), "b.tar": archive("", {"c.txt": b"c"})})
    write(place / "empty", {"a.jsonl": lines(9), "valid.jsonl": b""})
    for path, held_out, message in [
        ("some", "z.txt", "data.held_out = 'z.txt' matches no file in some, and is no file"),
        ("empty", "valid.jsonl", "every file that data.held_out names is empty: set it to others"),
        ("some", "**", "every document is held out or belongs to a test split"),
    ]:
        assert refuse(*TEXTS, *bind(data__path=path, data__held_out=held_out)).startswith(message)
        data = DataConfig("text_files", path, held_out=held_out)
        with pytest.raises(UserError, match=message.replace("*", r"\*")[:40]):
            load_documents(data)


def test_runs_and_stores_are_left_out(divided):
    """Also of files that must be unpacked."""
    files = {"a.jsonl": lines(9), "b.txt.gz": gzip.compress(BOOK)}
    written = {
        "run/config.gin": b"a",
        "run/lock": b"",
        "run/metrics.jsonl": b'{"loss": 1}',
        "stores/s/store.json": b"{}",
        "stores/s/train-00000.json": b"{}",
    }
    found = divided(files | written)
    assert files_of(found["train"]) | files_of(found["held_out"]) <= {"a.jsonl", "b.txt.gz"}
