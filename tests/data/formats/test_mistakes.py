"""One line for each thing that can be wrong with a corpus. It names the file and the row."""

import gzip
import json
import re
import sqlite3
import sys
import zipfile
from collections import defaultdict

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.formats import json_rows, long_lines
from block_recurrent.data.formats.corpus import Corpus
from block_recurrent.data.held_out import document_name
from block_recurrent.errors import UserError
from bucket_server import serve_bucket
from text_formats import COMPRESS, FILES, TEXTS, archive, json_lines, write

SKIP = "; correct the row, or leave such rows out with data.skip_bad_rows = True"


def message_of(path, **options) -> str:
    with pytest.raises(UserError) as error:
        for document in Corpus(DataConfig("text_files", str(path), **options)).documents():
            list(document.pieces)
    assert "\n" not in str(error.value)
    return str(error.value)


def documents_of(path, **options) -> tuple[list[bytes], int]:
    corpus = Corpus(DataConfig("text_files", str(path), skip_bad_rows=True, **options))
    return [b"".join(document.pieces) for document in corpus.documents()], corpus.skipped


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESS if suffix])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "d.csv", "f.parquet"])
def test_truncated_compressed_files(name, suffix, tmp_path):
    content = COMPRESS[suffix](FILES.get(name, b"text" * 9))
    write(tmp_path, {name + suffix: content[:-9]})
    message = message_of(tmp_path)
    assert message.startswith(f"{name}{suffix} is damaged or truncated (")
    assert message.endswith("): copy or download it again, or exclude it with data.glob")


def test_one_truncated_file_of_many(tmp_path):
    """It is named, and those before it are read."""
    content = COMPRESS[".zst"](FILES["a.jsonl"])
    write(tmp_path, {f"{i:02}.jsonl.zst": content[: None if i != 13 else -9] for i in range(20)})
    assert message_of(tmp_path).startswith("13.jsonl.zst is damaged or truncated (EOFError: ")
    assert len(documents_of(tmp_path, glob=("0*", "1[!3]*"))[0]) == 19 * len(TEXTS)


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESS if suffix])
def test_a_file_that_is_not_compressed_as_its_name_says(suffix, tmp_path):
    write(tmp_path, {f"a.txt{suffix}": b"A line of text.\n" * 9, f"b.jsonl{suffix}": json_lines()})
    assert message_of(tmp_path).startswith(f"a.txt{suffix} is damaged or truncated (")
    message = message_of(tmp_path, glob="b*")
    assert message.startswith(f"b.jsonl{suffix} is damaged or truncated (")


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_texts_in_lists(name, tmp_path):
    write(tmp_path, {"a.jsonl": b'{"text": ["one", "two"]}'})
    if name == "a.parquet":
        parquet.write_table(pa.table({"text": [["one", "two"]]}), tmp_path / name)
    assert re.search(r"'text' holds list(<element: string>)?, no text", message_of(tmp_path / name))


@pytest.mark.parametrize("kind", ["gz", "xz", "zip"])
def test_truncated_archives(kind, tmp_path):
    name = "a.zip" if kind == "zip" else f"a.tar.{kind}"
    content = archive(kind, {"1.txt": b"1" * 10**6, "2.txt": b"2"})
    write(tmp_path, {name: content[: len(content) // 2]})
    message = message_of(tmp_path)
    assert message.startswith(name) and " is damaged or truncated (" in message
    write(tmp_path, {name: b"no archive"})
    assert message_of(tmp_path).startswith(f"{name} is damaged or truncated (")


@pytest.mark.parametrize("name", ["f.parquet", "g.arrow", "h.arrow"])
def test_truncated_tables(name, tmp_path):
    for length in (0, 5, len(FILES[name]) // 2):
        write(tmp_path, {name: FILES[name][:length]})
        assert message_of(tmp_path).startswith(f"{name} is damaged or truncated (")


def test_an_encrypted_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("secret.txt", b"text")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    for place in (6, content.index(b"PK\x01\x02") + 8):  # flags of the file, twice
        content[place] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    assert message_of(tmp_path) == (
        "a.zip: secret.txt is encrypted: unpack it, and set data.path to the folder"
    )


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_field(name, tmp_path):
    write(tmp_path, {name: FILES[name]})
    near = message_of(tmp_path, text_field="txet")
    assert near.startswith(name) and "it has no field 'txet' (did you mean 'text'?)" in near
    assert "(it has id, text, url)" in message_of(tmp_path, name_field="xyz")
    assert "no field 'group'" in message_of(tmp_path, group_by="group")


@pytest.mark.parametrize("name", ["a.jsonl", "b.parquet"])
def test_a_wrong_field_inside_another(name, tmp_path):
    rows = [{"id": 1, "meta": {"text": "a", "n": 5}}, {"id": 2, "meta": None}]
    if name == "b.parquet":
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    else:
        write(tmp_path, {name: "\n".join(map(json.dumps, rows)).encode()})
    for field, hint in {
        "text": "did you mean 'meta.text'?",
        "meta.txt": "did you mean 'meta.text'?",
        "meta.text.x": "did you mean 'meta.text'?",
        "id.xyz": "it has id, meta, meta.text, meta.n",
    }.items():
        assert f"it has no field '{field}' ({hint})" in message_of(tmp_path, text_field=field)
    assert message_of(tmp_path, text_field="meta.text") == (
        f"{name}, row 2: the field 'meta.text' is null{SKIP}"
    )
    assert "'meta.n' holds int" in message_of(tmp_path, text_field="meta.n")
    assert documents_of(tmp_path, text_field="meta.text") == ([b"a"], 1)


def test_rows_without_text(tmp_path):
    rows = ['{"text": "a"}', '{"text": null}', '{"text": 5}', '{"txt": "b"}', "[1]", '{"text": "c']
    rows += ['{"text": "\\ud800"}', '{"text": "d", "score": NaN, "other": "\\ud800"}', ""]
    write(tmp_path, {"a.jsonl": "\n".join(rows).encode() + b'\n{"text": "\xff"}'})
    assert documents_of(tmp_path) == ([b"a", b"d"], 7)
    for number, why in {
        1: "the field 'text' is null",
        2: "the field 'text' holds int, no text",
        3: "it has no field 'text' (did you mean 'txt'?); fields are set by data.text_field and "
        "the like, and data.format = 'text' reads files as plain text",
        4: "it is no JSON object",
        6: "the field 'text' has half of a surrogate pair",
    }.items():
        write(tmp_path, {"a.jsonl": "\n".join([rows[0], rows[number]]).encode()})
        assert message_of(tmp_path) == f"a.jsonl, row 2: {why}{SKIP}"
    for text in (rows[5].encode(), b'{"text": "\xff"}'):
        write(tmp_path, {"a.jsonl": b"\n" + text})
        message = message_of(tmp_path)
        assert message.startswith("a.jsonl, row 2: it is no JSON object (")
        assert message.endswith(SKIP)


@pytest.mark.parametrize(
    "name, lines", [("a.csv", '"1,"x\n'), ("a.csv", '"text'), ("a.tsv", '"a"b')]
)
def test_a_first_row_that_is_no_csv(name, lines, tmp_path):
    write(tmp_path, {name: lines.encode()})
    message = message_of(tmp_path)
    assert message.startswith(f"{name}: its first row, which names the columns, is no CSV (")
    assert message.endswith("or read the file as plain text with data.format = 'text'")


def test_a_table_without_a_header(tmp_path):
    text = "A line.\n" * 99
    write(tmp_path, {"a.csv": f'0,"{text}"\n1,"{text}"\n'.encode()})
    message = message_of(tmp_path)
    assert message.startswith(
        "a.csv: in its first row, it has no field 'text' (it has 0, A line. A"
    )
    assert "…); fields are set by" in message and len(message) < 250


def test_rows_in_another_encoding(tmp_path):
    write(tmp_path, {"a.jsonl": json_lines().decode().encode("utf-16")})
    message = "it is no JSON object (not UTF-8: data.encoding names other encodings)"
    assert message_of(tmp_path) == f"a.jsonl, row 1: {message}{SKIP}"
    assert message_of(tmp_path, encoding="utf-8").startswith("a.jsonl is not in the encoding utf-8")


def test_training_says_how_many_rows_are_left_out(tmp_path, capsys):
    write(tmp_path, {"a.jsonl": b'{"text": null}\n' * 3 + json_lines()})
    load_documents(DataConfig("text_files", str(tmp_path), skip_bad_rows=True))
    assert capsys.readouterr().out == "3 rows left out (data.skip_bad_rows)\n"


def test_rows_of_tables_without_text(tmp_path):
    table = pa.table({"text": ["a", None, "b"], "n": [1, 2, None]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert message_of(tmp_path) == f"a.parquet, row 2: the field 'text' is null{SKIP}"
    assert documents_of(tmp_path) == ([b"a", b"b"], 1)
    assert message_of(tmp_path, text_field="n") == (
        "a.parquet: the column 'n' holds int64, no text: set data.text_field to a column of text; "
        "the file has text, n"
    )
    why = "the field 'n', which groups the rows, is null"
    found = message_of(tmp_path, group_by="n", skip_bad_rows=False, glob="a.*")
    assert found == f"a.parquet, row 2: the field 'text' is null{SKIP}"
    write(tmp_path / "b", {"b.jsonl": b'{"text": "a", "n": null}\n{"text": "a", "n": [1]}'})
    assert message_of(tmp_path / "b", group_by="n") == f"b.jsonl, row 1: {why}{SKIP}"
    assert documents_of(tmp_path / "b", group_by="n") == ([], 2)


def test_rows_of_csv_that_do_not_fit(tmp_path):
    write(tmp_path, {"a.csv": b'text,n\na,1\nb\n"c",2\n'})
    assert message_of(tmp_path) == (f"a.csv, row 2: it has 1 fields, and the header has 2{SKIP}")
    assert documents_of(tmp_path) == ([b"a", b"c"], 1)
    write(tmp_path, {"a.csv": b'text,n\na,1\n"never closed,2\n'})
    assert message_of(tmp_path).startswith("a.csv, row 2: it is no CSV (unexpected end of data)")
    assert documents_of(tmp_path) == ([b"a"], 1)


def test_mixed_schemas(tmp_path):
    write(tmp_path, {"a.jsonl": json_lines(), "b.jsonl": b'{"content": "x"}'})
    message = message_of(tmp_path)
    assert message.startswith("b.jsonl, row 1: it has no field 'text' (it has content)")


def test_long_lines_that_are_no_json(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "LONG_BYTES", 20)
    monkeypatch.setattr(json_rows, "CHUNK_BYTES", 16)
    monkeypatch.setattr(long_lines, "CHUNK_BYTES", 16)
    monkeypatch.setattr(long_lines, "LONG_STRING", 16)
    good, text = b'{"text": "' + b"long " * 9 + b'"}', "long " * 9
    bad = [b'{"text": "' + b"open " * 20, b"[" + b'"no object",' * 9 + b"1]"]
    bad += [b'{"text": "half \\ud800' + b" long" * 20 + b'"}', b'{"text": ["' + b"x" * 99 + b'"]}']
    write(tmp_path, {"a.jsonl": b"\n".join([good, *bad, good])})
    assert documents_of(tmp_path) == ([text.encode()] * 2, len(bad))
    assert message_of(tmp_path).startswith("a.jsonl, row 2: it is no JSON object (")
    monkeypatch.setattr(long_lines, "LONG_OUTLINE", 100)
    write(tmp_path, {"a.jsonl": b'{"text": "a", "n": [' + b"1, " * 99 + b"1]}\n" + good})
    assert documents_of(tmp_path) == ([text.encode()], 1)
    assert "MiB beside its long strings" in message_of(tmp_path)


def test_a_value_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "WHOLE_BYTES", 100)
    write(tmp_path, {"array.json": FILES["array.json"]})
    assert message_of(tmp_path).endswith("MiB: write one object per line")
    write(tmp_path, {"array.json": b"[\n1,\n"})
    assert "it is neither JSON lines nor a JSON value (" in message_of(tmp_path)
    write(tmp_path, {"array.json": b"[1,\n{}]"})
    assert message_of(tmp_path) == f"array.json, row 1: it is no object{SKIP}"


@pytest.mark.parametrize(
    "separator, why",
    [
        ("re:(", "is no regular expression (missing ), unterminated subpattern at position 0): "),
        ("re:\n*", "matches where nothing is: set it to what stands between two documents"),
        ("", "matches where nothing is"),
    ],
)
def test_separators(separator, why, tmp_path):
    write(tmp_path, {"a.txt": b"a"})
    message = message_of(tmp_path, separator=separator)
    assert message.startswith(f"data.separator = {separator!r} {why}")


def test_options_that_do_not_fit(tmp_path):
    write(tmp_path, {"a.jsonl": json_lines()})
    assert message_of(tmp_path, order_by="id").startswith(
        "data.order_by = 'id' has no effect without data.group_by: set "
    )


def test_training_without_preparation_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("block_recurrent.data.loaded_text.MOST_BYTES", 3000)
    write(tmp_path, {"a.jsonl": json_lines()})
    with pytest.raises(UserError, match="must be unpacked or converted: make a token"):
        load_documents(DataConfig("text_files", str(tmp_path)))
    monkeypatch.undo()
    splits = load_documents(DataConfig("text_files", str(tmp_path)))
    assert sum(documents.num_bytes for documents in splits.values()) == sum(
        len(text.encode()) for text in TEXTS
    )
    write(tmp_path, {"a.jsonl": json_lines() * 2})
    with pytest.raises(UserError, match="two documents have the name 'http://0': set data.name"):
        load_documents(DataConfig("text_files", str(tmp_path), name_field="url"))


def test_a_full_disk_for_temporary_files(tmp_path, monkeypatch):
    def fail(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("block_recurrent.data.formats.groups._write", fail)
    write(tmp_path, {"a.jsonl": json_lines()})
    with pytest.raises(UserError, match="cannot write temporary files to .* .database or disk is"):
        load_documents(DataConfig("text_files", str(tmp_path), group_by="id"))


def test_files_that_change(tmp_path):
    write(tmp_path, {"a.txt.gz": gzip.compress(b"a"), "b.txt": b"b"})
    corpus = Corpus(DataConfig("text_files", str(tmp_path), separator="|"))
    (tmp_path / "b.txt").write_bytes(b"longer")
    with pytest.raises(UserError, match="b.txt has 6 bytes, but had 1 at the start: restore"):
        list(corpus.documents())
    (tmp_path / "a.txt.gz").unlink()
    with pytest.raises(UserError, match="cannot read .*a.txt.gz .No such file or directory.: "):
        list(corpus.documents())


# Buckets and other places that fsspec knows


def test_urls():
    files = fsspec.filesystem("memory")
    for name, content in {"a.jsonl": json_lines(), "b/c.parquet": FILES["f.parquet"]}.items():
        files.pipe(f"/corpus/{name}", content)
    read = Corpus(DataConfig("text_files", "memory://corpus")).documents()
    assert [b"".join(one.pieces) for one in read] == [text.encode() for text in TEXTS] * 2
    read = Corpus(DataConfig("text_files", "memory://corpus/a.jsonl")).documents()
    assert [one.name for one in read] == [f"a.jsonl:{i + 1}" for i in range(len(TEXTS))]
    assert message_of("memory://nowhere").startswith("data.path = 'memory://nowhere' does not ex")
    assert message_of("memory://corpus", glob="*.csv").startswith(
        "no file in memory://corpus matches data.glob = '*.csv': change"
    )
    assert message_of("no-such-scheme://x").startswith("cannot read no-such-scheme://x (ValueErr")
    resolved = DataConfig("text_files", "memory://corpus").resolved("bytes")
    assert resolved.path == "memory://corpus"


def test_a_bucket(monkeypatch):
    with serve_bucket() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for name in ("a.jsonl", "b/f.parquet"):
            server.objects[f"corpus/{name}"] = 1, FILES[name.rpartition("/")[2]]
        server.objects["other/c.txt"] = 1, b"c"
        splits = load_documents(DataConfig("text_files", "gs://bucket/corpus"))
        joined = defaultdict(bytes)  # ends that are held out belong to their beginnings
        for documents in splits.values():
            for i, name in enumerate(documents.names):
                joined[document_name(name)] += documents.raw(i)
        assert sorted(joined.values()) == sorted(text.encode() for text in TEXTS * 2)
        found = message_of("gs://bucket/none")
        assert found.startswith("data.path = 'gs://bucket/none' does not exist: set it")


def test_pyarrow_is_needed_for_tables_only(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write(tmp_path, {"a.jsonl": json_lines(), "f.parquet": FILES["f.parquet"]})
    assert message_of(tmp_path).startswith("f.parquet needs pyarrow (import of pyarrow halted")
    assert message_of(tmp_path).endswith(" pip install -e '.[parquet]'")
    assert documents_of(tmp_path, glob="*.jsonl") == ([text.encode() for text in TEXTS], 0)


def test_null_in_json_text_is_not_the_word(tmp_path):
    write(tmp_path, {"a.json": json.dumps([{"text": "null"}]).encode()})
    assert documents_of(tmp_path) == ([b"null"], 0)
