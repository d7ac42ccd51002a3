"""Small files of every format, as other programs write them."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import zstandard
from pyarrow import parquet

TEXTS = ["one\ntwo\r\n", 'naïve 雪 “so”\t"quoted", \\ and / 🎵', " ", "x" * 3000, "last\x00\x7f"]
COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
ROWS = [{"id": i, "text": text, "url": f"http://{i}"} for i, text in enumerate(TEXTS)]


def json_lines(**options) -> bytes:
    return b"".join(json.dumps(row, **options).encode() + b"\n" for row in ROWS)


def csv_table(delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["id", "text", "url"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def parquet_table(**options) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(ROWS), file, row_group_size=2, **options)
    return file.getvalue()


def arrow_table(new=pa.ipc.new_stream) -> bytes:
    file = io.BytesIO()
    table = pa.Table.from_pylist(ROWS)
    with new(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return file.getvalue()


FILES = {
    "a.jsonl": json_lines(),
    "b.ndjson": json_lines(ensure_ascii=False),
    "c.json": b"\xef\xbb\xbf" + json_lines(),
    "array.json": json.dumps(ROWS, indent=1).encode(),
    "d.csv": csv_table(),
    "e.TSV": csv_table("\t"),
    "f.parquet": parquet_table(),
    "g.arrow": arrow_table(),
    "h.arrow": arrow_table(pa.ipc.new_file),
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def archive(kind: str, files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in files.items():
                zipped.writestr(name, content)
    else:
        with tarfile.open(fileobj=file, mode=f"w:{kind}") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()
