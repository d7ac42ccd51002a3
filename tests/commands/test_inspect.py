"""``prepare_data --inspect`` describes a corpus, and does nothing else."""

import functools
import gzip
import json
import subprocess
import sys

import pytest

import block_recurrent.prepare_data
from block_recurrent.data.prepare import inspect_source
from preparing import bind, contents, data, environment, write_texts
from text_formats import archive

BOOK = b"A line of the book.\n" * 1000


@pytest.fixture
def inspect(tmp_path, monkeypatch, run_command):
    """Runs the command in an empty folder: status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(run_command, block_recurrent.prepare_data.main, "--inspect")


def test_a_folder(inspect, tmp_path):
    write_texts(tmp_path / "texts", {"book.txt": BOOK, "README.md": b"by nobody\n"})
    before = contents(tmp_path)
    status, out, err = inspect(data("text_files"), *bind(data__path="texts"))
    assert (status, err) == (0, "") and contents(tmp_path) == before
    assert out.splitlines() == [
        "files: .txt 0.02 MB in 1, .md 10 bytes in 1",
        "train: 2 documents, 0.02 MB; the longest has 18,000 bytes, the median 9,005; 4.9% padding",
        "held_out: 1 document, 2,000 bytes; the longest has 2,000 bytes, the median 2,000; 2.3% "
        "padding",
        "held_out, by a hash of their names, and, as that is little text, the ends of others: "
        "book.txt[18000:20000] (2,000 bytes)",
        "looked at 0.02 MB of 0.02 MB, in 2 of 2 documents",
        "warning: only 2,000 bytes are held out, so their score says little: hold out more with "
        "data.held_out or data.held_out_per_mille, or add text",
    ]


def test_files_that_are_no_text(inspect, tmp_path):
    """They are listed with everything else, and then refused."""
    write_texts(tmp_path / "texts", {"book.txt": BOOK, "book.z": gzip.compress(BOOK)})
    status, out, err = inspect(data("text_files"), *bind(data__path="texts"))
    assert status == 2 and "warning: 1 document: gzip (book.z): their bytes are no text" in out
    assert err.startswith("error: 1 document not text: gzip (book.z): choose others with data.glob")
    allowed = bind(data__path="texts", data__allow_binary=True)
    status, out, err = inspect(data("text_files"), *allowed)
    assert (status, err) == (0, "") and "warning: 1 document: gzip" in out


def test_papers(inspect, tmp_path):
    """A document is a folder of .tex files; files are compared and counted one by one."""
    papers = {f"{i}/{name}.tex": f"{i} {name}\n".encode() * 900 for i in range(9) for name in "ab"}
    write_texts(tmp_path / "papers", papers | {"copy/a.tex": papers["3/a.tex"]})
    options = bind(data__path="papers", data__held_out=("3",), prepare__vocabulary="my.model")
    status, out, err = inspect(data("arxiv"), *options)
    assert (status, err) == (0, "")
    files, train, held_out, named, _, warning = out.splitlines()
    assert files == "files: .tex 0.07 MB in 19"
    assert train.startswith("train: 9 documents, 0.06 MB; the longest has 7,200 bytes")
    assert "padding" not in train, "because the number of tokens is not known"
    assert named == "held_out, as data.held_out says: 3 (7,200 bytes)"
    assert warning.startswith(
        "warning: 1 document: in held_out and equal to documents in train (3/a.tex = copy/a.tex):"
    )


def test_other_corpora(inspect):
    status, out, err = inspect(data("embedded"))
    assert (status, err) == (0, "") and out.startswith("train: ")
    status, out, err = inspect(data("pg19_bytes"))
    assert (status, out) == (2, "")
    assert err.startswith("error: there is nothing to inspect before it is prepared: of seqio")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"data__path": ""}, "data.path = '' names nothing: '.' is the current folder"),
        (
            {"data__path": "texts", "data__glob": ()},
            "data.glob = () names nothing: '**/*' is every",
        ),
        ({"data__path": "texts", "data__held_out": "x"}, "data.held_out = 'x' matches no file in"),
        ({"data__path": "texts", "data__held_out": ""}, "data.held_out = '' names nothing"),
        ({"data__path": "texts", "data__encoding": "x"}, "data.encoding = 'x' is no encoding"),
        ({"data__path": "texts", "data__encoding": "utf-16"}, "book.txt is not in the encoding"),
    ],
)
def test_mistakes(inspect, tmp_path, options, message):
    write_texts(tmp_path / "texts", {"book.txt": b"odd"})
    status, out, err = inspect(data("text_files"), *bind(**options))
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1


def test_without_tensorflow(tmp_path):
    write_texts(tmp_path / "texts", {"book.txt": BOOK})
    check = (
        "import sys; sys.modules['tensorflow'] = sys.modules['seqio'] = None; "
        "from block_recurrent.prepare_data import main; sys.exit(main())"
    )
    arguments = [data("text_files"), *bind(data__path="texts"), "--inspect"]
    result = subprocess.run(
        [sys.executable, "-c", check, *arguments],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "the end of the only document: book.txt[18000:20000]" in result.stdout


# Other formats


def rows(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def test_rows_and_archives(inspect, tmp_path):
    texts = [f"Row {i} of a file.\n" * 100 for i in range(6)]
    write_texts(
        tmp_path / "rows",
        {
            "train.jsonl.gz": gzip.compress(rows(*texts, "caf\u00e9")),
            "valid.tar": archive("", {"a.txt": texts[2].encode(), "b.txt": b"caf\xe9 " * 99}),
            "test.csv": b"text\none\n",
        },
    )
    status, out, err = inspect(data("text_files"), *bind(data__path="rows"))
    assert (status, err) == (0, "")
    files, train, held_out, named, test, test_named, extent, *warnings = out.splitlines()
    size = (tmp_path / "rows/train.jsonl.gz").stat().st_size
    assert files == f"files: .tar 0.01 MB in 1, .jsonl.gz {size} bytes in 1, .csv 9 bytes in 1"
    assert train.startswith(
        "train: 7 documents, 0.01 MB; the longest has 1,700 bytes, the median 1"
    )
    assert named == (
        "held_out, as their names say: valid.tar/a.txt (1,700 bytes), valid.tar/b.txt (495 bytes)"
    )
    assert test_named == "test, never trained on: test.csv:1 (3 bytes)"
    assert extent == "looked at 0.01 MB of 0.01 MB, in 10 of 10 documents"
    invalid, equal = warnings[:2]
    assert invalid.startswith("warning: 1 document: invalid UTF-8 (valid.tar/b.txt): they look")
    assert "equal to documents in train (valid.tar/a.txt = train.jsonl.gz:3): their score" in equal


def test_rows_that_are_no_text(inspect, tmp_path):
    """What counts is the text, and not that a file is compressed."""
    content = gzip.compress(rows("a", "b", "\x00\x01\x02" * 99))
    write_texts(tmp_path, {"a.jsonl.gz": content})
    status, _, err = inspect(data("text_files"), *bind(data__path="a.jsonl.gz"))
    assert status == 2 and "1 document not text: binary data (a.jsonl.gz:3)" in err


def test_a_large_corpus_is_sampled(inspect, tmp_path, monkeypatch):
    """Each of its files."""
    monkeypatch.setattr(inspect_source, "READ_BYTES", 100_000)
    for name in ("a", "b"):
        write_texts(tmp_path / "rows", {f"{name}.jsonl": rows(*[f"{name} " * 500] * 1000)})
    status, out, err = inspect(data("text_files"), *bind(data__path="rows"))
    assert (status, err) == (0, "")
    assert "documents: all figures are those of the first 0.05 MB of 2 files" in out
    (train,) = (line for line in out.splitlines() if line.startswith("train: "))
    (held_out,) = (line for line in out.splitlines() if line.startswith("held_out: "))
    counts = [int(line.split()[1]) for line in (train, held_out)]
    assert sum(counts) == 100 and counts[0] > counts[1]


def test_grouped_rows(inspect, tmp_path):
    """The end of one is held out."""
    content = b"".join(
        json.dumps({"repo": "one", "text": f"line {i}\n" * 99}).encode() + b"\n" for i in range(20)
    )
    write_texts(tmp_path, {"a.jsonl": content})
    options = bind(data__path="a.jsonl", data__group_by="repo")
    status, out, err = inspect(data("text_files"), *options)
    assert (status, err) == (0, "")
    assert "held_out, the end of the only document: one[" in out
