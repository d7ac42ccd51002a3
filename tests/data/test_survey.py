"""What is said about a corpus before the first step."""

import gzip
import io
import lzma
import os
import sqlite3
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from block_recurrent.config.data_options import DataConfig
from block_recurrent.config.run_config import RunConfig
from block_recurrent.data import findings
from block_recurrent.data.content import recognise
from block_recurrent.data.corpora import load_documents, survey_corpus
from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.held_out import document_name, is_held_out
from block_recurrent.data.survey import survey
from block_recurrent.errors import UserError
from block_recurrent.training.setup import Setup
from preparing import TEXTS, bind, write_texts

CHINESE = "這是一個中文文本。\n第二行，沒有英文。\n" * 40
ENGLISH = "Plain English text.\nA second line, with a café.\n" * 40


def survey_of(folder, window_length: int = 16, **options):
    data = DataConfig("text_files", str(folder), **options)
    return survey_corpus(data, load_documents(data), window_length)


# Content


def files_that_are_no_text(folder) -> dict[str, bytes]:
    """One of each format, written by the libraries of these formats."""
    archive, tar = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", ENGLISH)
    with tarfile.open(fileobj=tar, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.txt"))
    array = io.BytesIO()
    np.save(array, np.arange(99))
    with sqlite3.connect(folder / "database") as connection:
        connection.execute("create table texts (text)")
    return {
        "gzip": gzip.compress(ENGLISH.encode()),
        "xz": lzma.compress(ENGLISH.encode()),
        "zip": archive.getvalue(),
        "tar": tar.getvalue(),
        "NumPy": array.getvalue(),
        "SQLite": (folder / "database").read_bytes(),
        "PDF": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n" * 20,
        "PNG": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(50)),
        "parquet": b"PAR1\x15\x04\x15\x10\x15\x14L\x15\x02\x15\x00\x12\x00\x00",
        "binary data": np.random.default_rng(0).bytes(5000),
    }


def test_formats_that_are_no_text(tmp_path):
    for name, content in files_that_are_no_text(tmp_path).items():
        assert recognise(content[:4096]) == ("binary", name)


@pytest.mark.parametrize("text", [CHINESE, ENGLISH])
def test_encodings(text):
    for encoding in ("utf-8", "utf-8-sig"):
        assert recognise(text.encode(encoding), complete=True).kind == "utf-8"
        cut = [recognise(text.encode(encoding)[:size]).kind for size in range(900, 920)]
        assert set(cut) == {"utf-8"}, "a character that is cut off is not invalid"
    assert recognise(text.encode("utf-16")) == ("encoded", "UTF-16")
    assert recognise(text.encode("utf-16-le")) == ("encoded", "UTF-16LE")
    assert recognise(text.encode("utf-16-be")) == ("encoded", "UTF-16BE")
    assert recognise(text.encode("utf-32")) == ("encoded", "UTF-32")
    assert recognise(text.encode("gb18030")).kind == "invalid"
    assert recognise(text.encode()[:-2] + b"\xe9", complete=True).kind == "invalid"


@pytest.mark.parametrize(
    "text", ["", "BZh is no word", "PAR1", "ID3 tags", "a\x1b[1mb", "a\fb\n", "%", "雪", "MZ"]
)
def test_text_that_looks_like_a_format(text):
    assert recognise(text.encode(), complete=True).kind == "utf-8"


# The survey


def test_a_corpus_in_a_few_lines(tmp_path):
    files = {f"{i}.txt": b"0123456789abcde" * 100 for i in range(30)}
    files |= {"a.md": b"x" * 4799, "valid.txt": b"y" * 9000, "test.txt": b"z" * 15, "no": b"w" * 31}
    write_texts(tmp_path, files)
    assert list(survey_of(tmp_path).lines()) == [
        "files: .txt 0.05 MB in 32, .md 4,799 bytes in 1, (no suffix) 31 bytes in 1",
        "train: 32 documents, 0.05 MB; the longest has 4,799 bytes, the median 1,500; 0.2% padding",
        "held_out, as their names say: valid.txt (9,000 bytes)",
        "test, never trained on: test.txt (15 bytes)",
        "looked at 0.06 MB of 0.06 MB, in 34 of 34 documents",
    ]


def test_a_corpus_in_full(tmp_path):
    write_texts(tmp_path, {f"{i}.txt": b"x" * 2000 for i in range(99)})
    found = survey_of(tmp_path, held_out="1?.txt")
    short, full = list(found.lines()), list(found.lines(full=True))
    names = [f"{i}.txt (2,000 bytes)" for i in range(10, 20)]
    start = "held_out, as data.held_out says: "
    assert start + ", ".join(names[:5]) + " and 5 more" in short
    place = full.index(start.strip())
    assert full[place + 1 : place + 11] == [f"    {name}" for name in names]
    assert not full[place + 11].startswith(" ")
    assert any(line.startswith("held_out: 10 documents, 0.02 MB; the longest has") for line in full)


def test_names_that_are_not_utf8(tmp_path):
    write_texts(tmp_path, {"\udcff.txt": b"x" * 9000, "\udcff.txu\udcff": b"y" * 9000})
    lines = list(survey_of(tmp_path).lines())
    assert all(line.encode() for line in lines)
    assert lines[0] == r"files: .txt 9,000 bytes in 1, .txu\udcff 9,000 bytes in 1"


def warnings_of(folder, **options) -> list[str]:
    lines = survey_of(folder, **options).lines()
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


@pytest.fixture
def texts(tmp_path):
    """A corpus without a fault."""
    folder = tmp_path / "texts"
    write_texts(folder, {f"{i}.txt": b"%d\n" % i * 1500 for i in range(10)})
    assert not warnings_of(folder, held_out="1.txt")
    return folder


def test_other_encodings_are_told(texts):
    write_texts(
        texts,
        {
            "a.txt": CHINESE.encode("utf-16"),
            "b.txt": CHINESE.encode("big5"),
            "c.txt": b"\xff\xfe".join([b"a broken line\n"] * 300),
        },
    )
    utf_16, invalid = warnings_of(texts, held_out="1.txt")
    assert utf_16.startswith("1 document: UTF-16 (a.txt): set data.encoding = 'utf-16'")
    assert invalid.startswith("2 documents: invalid UTF-8 (b.txt, c.txt): they look like 'big5'")
    assert "data.encoding to their encoding or to 'detect'" in invalid


def test_equal_documents_are_told(texts):
    for name in ("1.txt", "2.txt", "3.txt"):
        write_texts(texts, {f"build/{name}": (texts / name).read_bytes()})
    write_texts(texts, {"build/4.txt": (texts / "4.txt").read_bytes()[:-2] + b"x\n"})
    (warning,) = warnings_of(texts, held_out=("1.txt", "2.txt", "4.txt"))
    assert warning == (
        "2 documents: in held_out and equal to documents in train (1.txt = build/1.txt, 2.txt = "
        "build/2.txt): their score shows what the model remembers; leave out copies by data.glob"
    )


def test_a_copy_of_which_only_the_end_is_held_out_is_told(tmp_path):
    """A document is held out whole by the hash of its name, and its copy is not."""
    names = [f"{i}.txt" for i in range(200)]
    held_out = next(name for name in names if is_held_out(name, 20))
    others = [name for name in names if not is_held_out(name, 20)][:5]
    files = {name: b"%d\n" % i * 2000 for i, name in enumerate(others)}
    write_texts(tmp_path, files | {held_out: files[others[2]]})
    (warning,) = warnings_of(tmp_path)
    assert f"equal to documents in train ({held_out} = {others[2]}[0:3600]): their" in warning


def test_equal_documents_are_not_looked_for_without_end(texts, monkeypatch):
    monkeypatch.setattr(findings, "COMPARED_BYTES", 7 * findings.FILE_BYTES)
    (warning,) = warnings_of(texts, held_out="[12345].txt")
    assert warning.startswith(
        "3 documents: in held_out and of the same sizes as documents in train"
    )
    assert warning.endswith("not compared, because that would take too long")


def test_links_that_leave_the_folder_are_told(texts, tmp_path):
    write_texts(tmp_path, {"diary.txt": b"private\n" * 200})
    (texts / "inside.txt").symlink_to("3.txt")
    (texts / "diary.txt").symlink_to(tmp_path / "diary.txt")
    (texts / "sub").mkdir()
    (texts / "sub" / "again.txt").symlink_to("../../diary.txt")
    (warning,) = warnings_of(texts, held_out="1.txt")
    assert warning.startswith("2 documents: links to files elsewhere (diary.txt, sub/again.txt): ")


@pytest.fixture
def snapshot(tmp_path):
    """A dataset as the Hugging Face hub's client caches it: all files are links to blobs."""
    repository = tmp_path / "datasets--me--texts"
    snapshot = repository / "snapshots" / "0a1b2c"
    rows = {"train": 50, "validation": 9}
    files = {f"data/{name}-00000-of-00001.parquet": n for name, n in rows.items()}
    (snapshot / "data").mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, (name, count) in enumerate({"README.md": 0, **files}.items()):
        blob = repository / "blobs" / (f"{number}f" * 32)
        if count:
            texts = [f"{name} {row}\n" * 200 for row in range(count)]
            parquet.write_table(pa.table({"text": texts}), blob)
        else:
            blob.write_text("about")
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    return snapshot


def test_the_cache_of_the_hub(snapshot, tmp_path, prepare):
    """Its links are no warning; others are."""
    for path in (snapshot, snapshot / "data"):
        found = survey_of(path)
        assert found.splits["train"].documents == 50 and found.splits["held_out"].documents == 9
        assert not found.warnings and found.suffixes.keys() == {".parquet"}
    assert not survey_of(snapshot / "data" / "train-00000-of-00001.parquet").warnings
    out = prepare("store", *TEXTS, *bind(data__path=str(snapshot)))
    assert "store train: 50 documents" in out and "warning" not in out
    write_texts(tmp_path, {"diary.txt": b"private\n" * 200})
    (snapshot / "data" / "diary.txt").symlink_to(tmp_path / "diary.txt")
    (warning,) = survey_of(snapshot).warnings
    assert warning.startswith("1 document: links to files elsewhere (data/diary.txt): ")


def test_a_snapshot_in_the_cache_of_the_hub_must_be_chosen(snapshot):
    """Otherwise its blobs, whose names do not say what they are, are read as text."""
    with pytest.raises(UserError) as error:
        survey_of(repository := snapshot.parents[1])
    assert str(error.value) == (
        f"data.path = '{repository}' is a dataset in the cache of the Hugging Face hub, where each "
        f"file lies twice: set data.path to one of its snapshots, such as '{snapshot}'"
    )


def test_padding_is_told(texts):
    write_texts(texts, {f"short {i}.txt": b"x" * 16 for i in range(2000)})
    (warning,) = warnings_of(texts, held_out="1.txt")
    assert warning.startswith("33% of the positions in a batch are padding, because documents are")
    assert "a window of 16 tokens: set a smaller BlockRecurrentTransformer.window_length" in warning


def test_a_held_out_set_that_says_little_is_told(texts):
    write_texts(texts, {"valid.txt": b"a few words"})
    (warning,) = warnings_of(texts)
    assert warning.startswith("only 11 bytes are held out, so their score says little: hold out")


def test_a_large_corpus_is_looked_at_in_part(texts, monkeypatch):
    monkeypatch.setattr(findings, "HEAD_BYTES", 100)
    monkeypatch.setattr(findings, "READ_BYTES", 500)
    assert survey_of(texts).extent == "looked at 500 bytes of 0.03 MB, in 5 of 10 documents"


# Binary files


def test_files_that_are_no_text_are_refused(texts):
    content = gzip.compress(os.urandom(5000))
    write_texts(texts, {"a.gzip": content, "book": content, "b.pdf": b"%PDF-1.4\n" + content})
    data = DataConfig("text_files", str(texts))
    with pytest.raises(UserError) as error:
        Setup(RunConfig(data=data))
    assert str(error.value) == (
        "3 documents not text: gzip (a.gzip, book), PDF (b.pdf): choose others with data.glob, "
        "such as '**/*.txt', or set data.allow_binary = True to train on their bytes"
    )
    allowed = warnings_of(texts, held_out="1.txt", allow_binary=True)
    assert allowed[0] == "2 documents: gzip (a.gzip, book): their bytes are no text"


def test_binary_files_that_are_asked_for(texts):
    write_texts(texts, {"a": os.urandom(5000)})
    data = DataConfig("text_files", str(texts), allow_binary=True)
    splits = Setup(RunConfig(data=data)).documents
    assert any(document_name(name) == "a" for each in splits.values() for name in each.names)


def test_an_empty_split():
    """Such as that of a store; training then says that the corpus has no documents."""
    empty = ByteDocuments({})
    found = survey({"train": empty, "held_out": empty}, 16)
    assert next(found.lines()) == (
        "train: 0 documents, 0 bytes; the longest has 0 bytes, the median 0"
    )
