"""The documents in files of all formats, compressed and in archives, and in parts."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.formats import json_rows as json_module
from block_recurrent.data.formats import plain_text
from block_recurrent.data.formats.corpus import Corpus
from text_formats import COMPRESS, FILES, TEXTS, archive, json_lines, write


def read(path: Path | str, part: int = 0, num_parts: int = 1, **options) -> dict[str, bytes]:
    corpus = Corpus(DataConfig("text_files", str(path), **options))
    found = [(d.name, b"".join(d.pieces)) for d in corpus.documents(part, num_parts)]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", FILES)
def test_rows(name, suffix, tmp_path):
    write(tmp_path, {name + suffix: COMPRESS[suffix](FILES[name])})
    expected = {f"{name}{suffix}:{i + 1}": text.encode() for i, text in enumerate(TEXTS)}
    assert read(tmp_path) == expected
    assert read(tmp_path / (name + suffix)) == expected
    urls = read(tmp_path, name_field="url")
    assert urls == {f"http://{i}": text.encode() for i, text in enumerate(TEXTS)}
    assert read(tmp_path, text_field="url")[f"{name}{suffix}:1"] == b"http://0"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_text(suffix, tmp_path):
    text = bytes(range(256)) * 40
    write(tmp_path, {f"{name}.txt{suffix}": COMPRESS[suffix](text) for name in "ab"})
    assert read(tmp_path) == {f"{name}.txt{suffix}": text for name in "ab"}


def test_files_of_several_frames(tmp_path):
    """As parallel compressors and `cat a.gz b.gz` write them."""
    for suffix, compress in COMPRESS.items():
        write(tmp_path, {f"a.txt{suffix}": compress(b"one, ") + compress(b"two")})
    assert read(tmp_path) == {f"a.txt{suffix}": b"one, two" for suffix in COMPRESS}


def test_long_windows_of_zstd(tmp_path):
    """`zstd --ultra --long=31`, as large dumps have it."""
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    compress = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    write(tmp_path, {"a.txt.zst": compress.compress(b"long ") + compress.flush()})
    assert read(tmp_path) == {"a.txt.zst": b"long "}


def test_suffixes_in_capitals(tmp_path):
    rows = FILES["a.jsonl"]
    files = {"A.JSONL": rows, "B.JSON.GZ": gzip.compress(rows), "C.PARQUET": FILES["f.parquet"]}
    write(tmp_path, files | {"D.TXT": b"d", "E.ZIP": archive("zip", {"F.TXT.ZST": b""})})
    expected = {f"{name}:{i + 1}": text.encode() for name in files for i, text in enumerate(TEXTS)}
    assert read(tmp_path) == expected | {"D.TXT": b"d", "E.ZIP/F.TXT.ZST": b""}


def test_archives(tmp_path):
    """Of texts, tables and compressed files, also inside each other; hidden files are left out."""
    files = {"b/1.txt": b"first", "./2.txt": b"", "._1.txt": b"\0", "f.parquet": FILES["f.parquet"]}
    files |= {
        "c.csv": b"text,n\nT,1\n",
        "z.csv.gz": gzip.compress(FILES["d.csv"]),
        "deep.zip": archive("zip", {"x": b"X"}),
    }
    names = {"a.tar": "", "a.tgz": "gz", "a.tar.xz": "xz", "a.tar.bz2": "bz2", "a.zip": "zip"}
    packed = {name: archive(kind, files) for name, kind in names.items()}
    packed["a.tar.zst"] = COMPRESS[".zst"](packed["a.tar"])
    for name, content in packed.items():
        rows = {f"f.parquet:{i + 1}": text.encode() for i, text in enumerate(TEXTS)}
        rows |= {f"z.csv.gz:{i + 1}": text.encode() for i, text in enumerate(TEXTS)}
        inside = {"b/1.txt": b"first", "2.txt": b"", "c.csv:1": b"T", **rows, "deep.zip/x": b"X"}
        folder = write(tmp_path / name, {name: content})
        assert read(folder) == {f"{name}/{path}": text for path, text in inside.items()}


def test_a_mixture_in_the_order_of_names(tmp_path):
    write(tmp_path, FILES | {"d/z.txt": b"text", "a.txt.gz": gzip.compress(b"zipped")})
    names = list(read(tmp_path))
    assert len(names) == len(FILES) * len(TEXTS) + 2
    assert [name.partition(":")[0] for name in names] == sorted(
        name.partition(":")[0] for name in names
    )
    assert read(tmp_path, glob="**/*.txt*") == {"a.txt.gz": b"zipped", "d/z.txt": b"text"}


@pytest.mark.parametrize("num_parts", [1, 2, 3, 4, 7])
def test_parts_make_up_the_whole(num_parts, tmp_path):
    write(tmp_path, FILES | {"t.txt": b"a|b|c|d", "u.zip": archive("zip", {"1": b"1", "2": b"|"})})
    for place in (tmp_path, tmp_path / "f.parquet", tmp_path / "a.jsonl", tmp_path / "t.txt"):
        whole = read(place, separator="|")
        parts = [read(place, part, num_parts, separator="|") for part in range(num_parts)]
        assert sum(map(len, parts)) == len(whole)
        assert {name: text for part in parts for name, text in part.items()} == whole


def test_data_format_overrides_the_suffix(tmp_path):
    write(tmp_path, {"a.json": b"{}", "b.csv.gz": gzip.compress(b"x,y")})
    assert read(tmp_path, format="text") == {"a.json": b"{}", "b.csv.gz": b"x,y"}
    write(tmp_path / "wiki", {"wiki_00": json_lines()})
    assert len(read(tmp_path / "wiki", format="json")) == len(TEXTS)


def test_snapshots_of_hugging_face(tmp_path):
    """As the hub has them, and as `save_to_disk` writes them."""
    hub = {"README.md": b"# About", ".gitattributes": b"*", "dataset_infos.json": b"{}"}
    write(tmp_path / "hub", hub | {"data/train-00000-of-00001.parquet": FILES["f.parquet"]})
    assert len(read(tmp_path / "hub")) == len(TEXTS)
    disk = {"dataset_info.json": b"{}", "state.json": b"{}", "cache-1.arrow": b"intermediate"}
    write(tmp_path / "disk", disk | {"data-00000-of-00001.arrow": FILES["g.arrow"]})
    assert len(read(tmp_path / "disk")) == len(TEXTS)
    write(tmp_path / "texts", {"README.md": b"# About", "b.txt": b"b"})
    assert list(read(tmp_path / "texts")) == ["README.md", "b.txt"]


def test_columns_of_other_kinds_of_text(tmp_path):
    for name, kind in {"a": pa.large_string(), "b": pa.binary(), "c": pa.string_view()}.items():
        table = pa.table({"text": pa.array(["é", ""], kind)})
        with pa.OSFile(str(tmp_path / f"{name}.arrow"), "wb") as file:
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
    table = pa.table({"text": pa.array(["é", "é"]).dictionary_encode()})
    parquet.write_table(table, tmp_path / "d.parquet")
    assert list(read(tmp_path).values()) == ["é".encode(), b""] * 3 + ["é".encode()] * 2


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "shift_jis", "detect"])
@pytest.mark.parametrize("name", ["a.csv", "b.tsv", "c.jsonl", "d.json"])
def test_rows_in_another_encoding(name, encoding, suffix, tmp_path):
    texts = ["雪が降る。" * 40, "テキスト,\t;|\n二行目" * 40, "naive"]
    if name.endswith("sv"):
        delimiter = "," if name == "a.csv" else "\t"
        rows = "".join(f'{i}{delimiter}"{text}"\r\n' for i, text in enumerate(texts))
        content = f"id{delimiter}text\r\n{rows}"
    else:
        lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
        content = ("[%s]" if name == "d.json" else "%s").replace(
            "%s", ("," if name == "d.json" else "\n").join(lines)
        )
    raw = content.encode("utf-16" if encoding == "detect" else encoding)
    write(tmp_path, {name + suffix: COMPRESS[suffix](raw)})
    assert list(read(tmp_path, encoding=encoding).values()) == [text.encode() for text in texts]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_delimiters(delimiter, quote, suffix, tmp_path):
    """As spreadsheets of other countries write them, with a byte order mark."""
    lines = [("id", "a,b", "text"), ("1", "x;y|z", "one, two; three | four")]
    table = "".join(
        delimiter.join(
            f'"{cell}"' if set(cell) & set(',;|"') else quote + cell + quote for cell in row
        )
        + "\r\n"
        for row in lines
    )
    write(tmp_path, {f"a.{suffix}": b"\xef\xbb\xbf" + table.encode()})
    assert list(read(tmp_path).values()) == [b"one, two; three | four"]
    assert read(tmp_path, name_field="id") == {"1": b"one, two; three | four"}


def table_files(rows: list[dict]) -> dict[str, bytes]:
    """The same rows in all formats that have fields inside others."""
    table, file = pa.Table.from_pylist(rows), pa.BufferOutputStream()
    parquet.write_table(table, file)
    arrow = pa.BufferOutputStream()
    with pa.ipc.new_stream(arrow, table.schema) as writer:
        writer.write_table(table)
    return {
        "a.jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "b.json": json.dumps(rows, indent=1).encode(),
        "c.parquet": file.getvalue().to_pybytes(),
        "d.arrow": arrow.getvalue().to_pybytes(),
    }


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("name", ["a.jsonl", "b.json", "c.parquet", "d.arrow"])
def test_fields_inside_others(name, long, tmp_path, monkeypatch):
    """A field that has the very name comes first."""
    if long:
        monkeypatch.setattr(json_module, "LONG_BYTES", 10)
    rows = [
        {"text": f"top {i}", "a": {"text": f"in {i}", "b": {"id": i, "text": f"deep {i}"}}}
        for i in range(3)
    ]
    write(tmp_path, {name: table_files(rows)[name]})
    assert list(read(tmp_path).values()) == [b"top 0", b"top 1", b"top 2"]
    assert list(read(tmp_path, text_field="a.text").values()) == [b"in 0", b"in 1", b"in 2"]
    found = read(tmp_path, text_field="a.b.text", name_field="a.b.id")
    assert found == {"0": b"deep 0", "1": b"deep 1", "2": b"deep 2"}
    assert list(read(tmp_path, text_field="a.b.text", group_by="a.b.id")) == ["0", "1", "2"]
    own = [row | {"a.text": f"own {i}"} for i, row in enumerate(rows)]
    write(tmp_path, {name: table_files(own)[name]})
    assert list(read(tmp_path, text_field="a.text").values()) == [b"own 0", b"own 1", b"own 2"]


# Separators


@pytest.mark.parametrize(
    "text, separator, expected",
    [
        ("a<|endoftext|>b\n<|endoftext|>c", "<|endoftext|>", ["a", "b\n", "c"]),
        ("a\n\n\nb\n\n", "re:\n\n+", ["a", "b", ""]),
        ("* * *\nA\n* * *\nB", "* * *\n", ["", "A\n", "B"]),
        ("no separator", "|", ["no separator"]),
        ("re|b", "re|b", [""] * 2),
        ("y" * 50 + "x\nxb", "re:(?m)^x", ["y" * 50 + "x\n", "b"]),
        ("1. a 2. b", r"re:\d\. ", ["", "a ", "b"]),
    ],
)
@pytest.mark.parametrize("chunk", [1, 3, 2**20])
def test_separators(text, separator, expected, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(plain_text, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(plain_text, "OVERLAP", 20)
    write(tmp_path, {"a.txt": text.encode()})
    found = read(tmp_path, separator=separator)
    assert found == {f"a.txt:{i + 1}": each.encode() for i, each in enumerate(expected)}


def test_documents_that_are_not_read_are_skipped(tmp_path):
    write(tmp_path, {"a.txt": b"a|" * 9, "b.txt.gz": gzip.compress(b"b" * 9)})
    corpus = Corpus(DataConfig("text_files", str(tmp_path), separator="|"))
    names = [document.name for document in corpus.documents()]
    assert names == [f"a.txt:{i + 1}" for i in range(10)] + ["b.txt.gz:1"]


# Long lines


@pytest.mark.parametrize("ascii", [False, True])
@pytest.mark.parametrize("chunk", [7, 100, 2**20])
def test_long_lines_of_json(ascii, chunk, tmp_path, monkeypatch):
    """Lines, strings and chunks of any length give the same documents."""
    from block_recurrent.data.formats import long_lines

    texts = ["short", '\\" \\\\ \n\t/ é雪🎵 ' * 30, "\\" * 200, "🎵" * 100, "", "end"]
    rows = [{"id": i, "also": text, "text": text} for i, text in enumerate(texts)]
    lines = [json.dumps(row, ensure_ascii=ascii).encode() for row in rows]
    lines.insert(3, b"")
    write(tmp_path, {"a.jsonl": b"\n".join(lines)})
    for module in (json_module, long_lines):
        monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(json_module, "LONG_BYTES", 50)
    monkeypatch.setattr(long_lines, "LONG_STRING", 40)
    assert list(read(tmp_path).values()) == [text.encode() for text in texts]
    assert list(read(tmp_path)) == [f"a.jsonl:{i}" for i in (1, 2, 3, 5, 6, 7)]
    parts = [read(tmp_path / "a.jsonl", part, 3) for part in range(3)]
    assert sum(map(len, parts)) == len(texts)


# Groups


def test_rows_of_a_repository_are_one_document(tmp_path):
    rows = [("b", "z.py", "3"), ("a", "1.py", "A"), ("b", "a/x.py", "1"), ("b", "a/y.py", "2é")]
    lines = [json.dumps({"repo": r, "path": p, "text": t}).encode() for r, p, t in rows]
    write(tmp_path, {"1.jsonl": b"\n".join(lines[:2]), "2.jsonl": b"\n".join(lines[2:])})
    expected = {"a": b"A", "b": "12é3".encode()}
    options = {"group_by": "repo", "order_by": "path"}
    assert read(tmp_path, **options) == expected
    assert list(read(tmp_path, **options)) == ["a", "b"]
    assert read(tmp_path, group_by="repo") == {"a": b"A", "b": "312é".encode()}
    assert read(tmp_path, 0, 2, **options) | read(tmp_path, 1, 2, **options) == expected
    assert list(read(tmp_path, 1, 2, **options)) == ["b"]


def test_the_order_of_grouped_rows(tmp_path):
    """Null, then numbers by size, then text; equal places as they come."""
    places = [10, 9, 2**70, None, 1.5, "b", "B", 9, -(2**63)]
    rows = [{"text": f"{place},", "at": place, "doc": 7} for place in places]
    write(tmp_path, {"a.json": json.dumps(rows).encode()})
    found = read(tmp_path, group_by="doc", order_by="at")
    ordered = [None, -(2**63), 1.5, 9, 9, 10, 2**70, "B", "b"]
    assert found == {"7": "".join(f"{place}," for place in ordered).encode()}
