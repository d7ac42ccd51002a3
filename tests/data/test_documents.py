"""Documents, vocabularies and corpora, with the folders and mistakes of users."""

import gzip
import lzma
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.held_out import Part, is_held_out
from block_recurrent.data.text_files import matching_files
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.errors import UserError
from block_recurrent.evaluation.score import compressed_bits_per_byte
from preparing import load_text_files

EVERY_BYTE = bytes(range(256))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, contents in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)
    return folder


def all_names(splits) -> list[str]:
    return sorted(name for documents in splits.values() for name in documents.names)


def message_of(function, *arguments, **options) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


# Vocabulary


def test_byte_vocabulary_equals_that_of_seqio():
    vocabulary = ByteVocabulary()
    ids = vocabulary.encode(EVERY_BYTE)
    assert ids.dtype == np.uint16 and ids.tolist() == list(range(3, 259))
    assert vocabulary.size == 260
    assert vocabulary.encode(b"").tolist() == []


def test_decode_drops_ids_that_are_not_bytes():
    vocabulary = ByteVocabulary()
    assert vocabulary.decode(vocabulary.encode(EVERY_BYTE)) == EVERY_BYTE
    assert vocabulary.decode([0, 1, 2, 3, 68, 258, 259, 260, 400, -1]) == b"\x00A\xff"
    assert vocabulary.decode([]) == b""


# Documents


@pytest.fixture(params=["memory", "files"])
def documents(request, tmp_path):
    contents = {"a": EVERY_BYTE, "b": b"", "c": b"xyz\r\n\n"}
    if request.param == "memory":
        return ByteDocuments(contents)
    write(tmp_path, contents)
    return ByteDocuments({name: tmp_path / name for name in contents})


def test_byte_documents(documents):
    assert documents.names == ["a", "b", "c"]
    assert documents.lengths.tolist() == [257, 1, 7] and documents.lengths.dtype == np.int64
    assert (documents.num_tokens, documents.num_bytes) == (265, 262)
    assert [documents.raw(i) for i in range(3)] == [EVERY_BYTE, b"", b"xyz\r\n\n"]


def test_every_slice_of_tokens(documents):
    whole = [ord(c) + 3 for c in "xyz\r\n\n"] + [1]
    for start in range(9):
        for stop in range(start, 10):
            tokens = documents.tokens(2, start, stop)
            assert tokens.tolist() == whole[start:stop] and tokens.dtype == np.uint16
    assert documents.tokens(1, 0, 5).tolist() == [1]


def test_select(documents):
    chosen = documents.select([2, 0])
    assert chosen.names == ["c", "a"] and chosen.lengths.tolist() == [7, 257]
    assert chosen.raw(0) == b"xyz\r\n\n" and chosen.num_bytes == 262
    assert documents.names == ["a", "b", "c"], "the selection should leave the original alone"


def test_parts(documents):
    parts = documents.parts([Part(2, 1, 4), Part(0, 0, 256), Part(0, 250, 256)])
    assert parts.names == ["c[1:4]", "a", "a[250:256]"]
    assert parts.lengths.tolist() == [4, 257, 7]
    assert [parts.raw(i) for i in range(3)] == [b"yz\r", EVERY_BYTE, EVERY_BYTE[250:]]
    assert parts.tokens(0, 1, 9).tolist() == [ord("z") + 3, ord("\r") + 3, 1]
    inside = parts.parts([Part(2, 2, 4)])
    assert (inside.raw(0), inside.read(0, 1, 9)) == (EVERY_BYTE[252:254], EVERY_BYTE[253:254])
    assert parts.fingerprint != documents.fingerprint


def test_a_huge_file_is_read_in_pieces(tmp_path):
    path = tmp_path / "huge"
    with open(path, "wb") as file:
        file.truncate(2**33)  # sparse: takes no space
        file.seek(2**32)
        file.write(b"abc")
    documents = ByteDocuments({"huge": path})
    tracemalloc.start()
    tokens = documents.tokens(0, 2**32, 2**32 + 4)
    end = documents.tokens(0, 2**33 - 1, 2**33 + 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tokens.tolist() == [100, 101, 102, 3] and end.tolist() == [3, 1]
    assert peak < 2**20


def test_files_that_change_while_in_use(tmp_path):
    write(tmp_path, {"shrinks": b"12345", "vanishes": b"12345"})
    documents = ByteDocuments({name: tmp_path / name for name in ("shrinks", "vanishes")})
    (tmp_path / "shrinks").write_bytes(b"123")
    (tmp_path / "vanishes").unlink()
    assert documents.tokens(0, 0, 3).tolist() == [52, 53, 54]
    for read in (lambda i: documents.tokens(i, 2, 6), documents.raw):
        message = message_of(read, 0)
        assert str(tmp_path / "shrinks") in message and "is shorter than the 5 bytes" in message
        assert "restore it" in message
        message = message_of(read, 1)
        assert f"cannot read {tmp_path / 'vanishes'} (No such file" in message
        assert "restore it" in message


# The standard library


def test_standard_library():
    splits = load_documents(DataConfig())
    names = all_names(splits)
    assert set(splits) == {"train", "held_out"} and len(names) == len(set(names)) > 400
    assert {"os.py", "json/decoder.py", "collections/__init__.py"} <= set(names)
    forbidden = ("site-packages", "dist-packages", "__pycache__", "config-", "_sysconfigdata")
    assert not [name for name in names for word in forbidden if word in name]
    for documents in splits.values():
        assert documents.names == sorted(documents.names) and documents.lengths.min() > 1
    train = splits["train"]
    index = train.names.index("os.py")
    assert train.raw(index) == Path(os.__file__).read_bytes()
    share = splits["held_out"].num_bytes / (splits["held_out"].num_bytes + train.num_bytes)
    assert 0.005 < share < 0.05


def test_standard_library_without_sources(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "python311.zip"))
    message = message_of(load_documents, DataConfig())
    assert "python311.zip" in message and "set data.corpus = 'text_files'" in message


def test_standard_library_leaves_out_files_of_the_machine(monkeypatch, tmp_path):
    kept = ["a.py", "b/c.py", "test/d.py"]
    write(tmp_path, {name: b"x" for name in kept})
    left_out = ["site-packages/e.py", "b/__pycache__/f.py", "config-3.11-linux/python-config.py"]
    left_out += ["dist-packages/g.py", "_sysconfigdata__linux.py", "h.txt", "sitecustomize.py"]
    write(tmp_path, {name: b"x" for name in left_out} | {"empty.py": b""})
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert all_names(load_documents(DataConfig())) == kept


def test_compressed_bits_per_byte():
    contents = [b"the same words, the same words. " * 40, bytes(range(256)) * 2, b"short"]
    figures = compressed_bits_per_byte(ByteDocuments({str(i): c for i, c in enumerate(contents)}))
    total = sum(map(len, contents))
    assert figures == {
        "gzip -9": sum(8 * len(gzip.compress(c, 9)) for c in contents) / total,
        "xz -9e": sum(8 * len(lzma.compress(c, preset=9 | lzma.PRESET_EXTREME)) for c in contents)
        / total,
    }


# Folders


@pytest.fixture
def folder(tmp_path):
    names = ["a.txt", "b.md", "sub/c.txt", "sub/deep/d.txt", ".git/e.txt", "sub/.hidden.txt"]
    return write(tmp_path / "texts", {name: b"contents of " + name.encode() for name in names})


@pytest.mark.parametrize(
    "glob, expected",
    [
        ("**/*", ["a.txt", "b.md", "sub/c.txt", "sub/deep/d.txt"]),
        ("**", ["a.txt", "b.md", "sub/c.txt", "sub/deep/d.txt"]),
        ("**/*.txt", ["a.txt", "sub/c.txt", "sub/deep/d.txt"]),
        ("./*", ["a.txt", "b.md"]),
        ("*/*.txt", ["sub/c.txt"]),
        ("sub/**/*.txt", ["sub/c.txt", "sub/deep/d.txt"]),
        ("**/[cd].txt", ["sub/c.txt", "sub/deep/d.txt"]),
        ("**/.*/*", [".git/e.txt"]),
        ("**/.*", ["sub/.hidden.txt"]),
        (".git/*", [".git/e.txt"]),
        (("*.md", "sub/*"), ["b.md", "sub/c.txt"]),
    ],
)
def test_glob(folder, glob, expected):
    assert matching_files(folder, glob) == expected


def test_bytes_are_kept(tmp_path):
    write(tmp_path, {"a": EVERY_BYTE, "b": b"\r\n", "empty": b""})
    splits = load_documents(DataConfig("text_files", str(tmp_path)))
    raw = {d.names[i]: d.raw(i) for d in splits.values() for i in range(len(d.names))}
    assert raw == {"a": EVERY_BYTE, "b": b"\r\n"}


def test_held_out_of_a_folder_follows_its_parameter(tmp_path):
    write(tmp_path, {f"{i}": b"x" for i in range(60)})
    for per_mille in (200, 500):
        splits = load_documents(DataConfig("text_files", str(tmp_path), "**/*", per_mille))
        expected = sorted(name for name in map(str, range(60)) if is_held_out(name, per_mille))
        assert splits["held_out"].names == expected


def test_links(folder, tmp_path):
    write(tmp_path, {"elsewhere/f.txt": b"f"})
    (folder / "loop").symlink_to(folder)
    (folder / "sub" / "up").symlink_to("..")
    (folder / "other").symlink_to(tmp_path / "elsewhere")
    (folder / "file").symlink_to(tmp_path / "elsewhere" / "f.txt")
    (folder / "broken").symlink_to("nowhere")
    names = ["a.txt", "b.md", "file", "sub/c.txt", "sub/deep/d.txt"]
    assert all_names(load_text_files(folder)) == names
    (tmp_path / "linked").symlink_to(folder)
    assert all_names(load_text_files(tmp_path / "linked")) == names


def test_what_this_package_writes_is_no_text(folder):
    """Runs and stores, also unfinished ones; but not every folder with a config.gin."""
    names = all_names(load_text_files(folder))
    write(
        folder,
        {
            "runs/a/config.gin": b"a",
            "runs/a/checkpoints/8/params/d/1": b"a",
            "runs/a/metrics.jsonl": b"a",
            "runs/begun/config.gin": b"a",
            "runs/begun/lock": b"a",
            "stores/b/store.json": b"b",
            "stores/b/train-00000.tokens": b"b",
            "stores/c.partial/plan.json": b"c",
            "stores/c.partial/train-00000.tokens": b"c",
        },
    )
    assert all_names(load_text_files(folder)) == names
    write(folder, {"gin/config.gin": b"d", "plans/plan.json": b"e"})
    found = set(all_names(load_text_files(folder, format="text")))
    assert {"gin/config.gin", "plans/plan.json"} < found
    write(folder, {"config.gin": b"f", "checkpoints/8/params": b"f", "samples.jsonl": b"f"})
    found = set(all_names(load_text_files(folder, format="text")))
    assert found == {*names, "gin/config.gin", "plans/plan.json"}, "the folder is that of a run"


def test_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert "a.txt" in all_names(load_text_files("~/texts"))


# Mistakes


def test_mistakes_in_the_configuration(folder):
    message = message_of(load_documents, DataConfig("text_files"))
    assert message == "data.corpus = 'text_files' needs a file or folder: set data.path"
    message = message_of(load_documents, DataConfig(path=str(folder)))
    assert "has no effect on data.corpus = 'standard_library': set" in message


def test_mistakes_in_the_folder(folder):
    message = message_of(load_text_files, folder / "x")
    assert (
        message
        == f"data.path = '{folder / 'x'}' does not exist: set it to a file or folder of text"
    )
    message = message_of(load_text_files, folder, "**/*.rst")
    assert message.startswith(f"no file in {folder} matches data.glob = '**/*.rst': change")


def test_all_files_empty(tmp_path):
    write(tmp_path, {"a": b"", "b": b""})
    message = message_of(load_text_files, tmp_path)
    assert message.startswith(f"every file in {tmp_path} that matches data.glob = '**/*' is empty")
    message = message_of(load_text_files, write(tmp_path, {"c": b"1"}))
    assert message.startswith("the only document has a single byte")


def test_no_permission(folder, monkeypatch):
    """Simulated, because tests that run as root may read everything."""
    access, scandir = os.access, os.scandir
    monkeypatch.setattr(os, "access", lambda p, mode: Path(p).name != "b.md" and access(p, mode))
    message = message_of(load_text_files, folder)
    assert message.startswith(f"no permission to read {folder / 'b.md'}: make it readable (chmod")
    assert "b.md" not in all_names(load_text_files(folder, "**/*.txt"))

    def refuse(path):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    message = message_of(load_text_files, folder, "**/*.txt")
    assert message.startswith(f"cannot list the folder {folder / 'sub' / 'deep'} (Permission")
