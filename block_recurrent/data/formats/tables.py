"""Parquet and Arrow files: those of Hugging Face datasets, and any others."""

from collections.abc import Iterable, Iterator, Sequence
from io import IOBase
from typing import TYPE_CHECKING

from block_recurrent.data.formats.compression import seekable
from block_recurrent.data.formats.rows import Row, Share, missing_field
from block_recurrent.errors import UserError, first_line

if TYPE_CHECKING:
    import pyarrow

BATCH_BYTES = 2**22  # of text that is decoded at once
MOST_ROWS = 4096  # decoded at once

Column = tuple[str, ...]  # its name, or the names of structs and of a field inside them


def parquet_rows(stream: IOBase, name: str, wanted: Sequence[str], share: Share) -> Iterator[Row]:
    """The rows of a parquet file; of a share, its row groups.

    Raises:
      UserError: the file is damaged, has no such column, or pyarrow is not installed.
    """
    pyarrow = _import_pyarrow(name)
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(seekable(stream), buffer_size=2**20)
        columns = _find_columns(file.schema_arrow, name, wanted)
        first = 0  # row of the group
        for index in range(file.num_row_groups):
            group = file.metadata.row_group(index)
            if index in share:
                size = max(group.total_byte_size // max(group.num_rows, 1), 1)
                batches = file.iter_batches(
                    batch_size=min(max(BATCH_BYTES // size, 1), MOST_ROWS),
                    row_groups=[index],
                    columns=[".".join(column) for column in columns],
                    use_threads=False,
                )
                yield from _rows(batches, first, columns)
            first += group.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(name, error) from error


def arrow_rows(stream: IOBase, name: str, wanted: Sequence[str], share: Share) -> Iterator[Row]:
    """The rows of an Arrow file, in either of its formats (streaming, random access).

    Raises:
      UserError: see `parquet_rows`.
    """
    pyarrow = _import_pyarrow(name)
    try:
        file = seekable(stream)
        magic = file.read(6)
        file.seek(0)
        whole = magic == b"ARROW1"
        reader = pyarrow.ipc.open_file(file) if whole else pyarrow.ipc.open_stream(file)
        columns = _find_columns(reader.schema, name, wanted)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if whole else reader
        first = 0
        for index, batch in enumerate(batches):
            if index in share:
                yield from _rows([batch], first, columns)
            first += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(name, error) from error


def _rows(batches: Iterable["pyarrow.RecordBatch"], first: int, columns: Sequence[Column]):
    import pyarrow

    for batch in batches:
        text, *others = (_column(batch, column) for column in columns)
        texts = text.cast(pyarrow.large_binary()).to_pylist()
        for values in zip(texts, *(other.to_pylist() for other in others), strict=True):
            first += 1
            yield Row(first, values)


def _column(batch: "pyarrow.RecordBatch", column: Column) -> "pyarrow.Array":
    from pyarrow import compute

    outer, *inner = column
    values = batch.column(outer)
    return compute.struct_field(values, inner) if inner else values


def _find_columns(schema: "pyarrow.Schema", name: str, wanted: Sequence[str]) -> list[Column]:
    """Where the wanted fields are. Raises UserError if one is not there, or the text is no text."""
    from pyarrow import types

    fields: dict[str, tuple[Column, pyarrow.DataType]] = {}
    for column, kind in sorted(_fields_in(schema), key=lambda found: len(found[0])):
        fields.setdefault(".".join(column), (column, kind))
    if not set(wanted) <= fields.keys():
        raise UserError(f"{name}: {missing_field(wanted, list(fields))}")
    kind = fields[wanted[0]][1]
    kind = kind.value_type if types.is_dictionary(kind) else kind
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    texts += (types.is_binary, types.is_large_binary, types.is_binary_view)
    if not any(is_text(kind) for is_text in texts):
        raise UserError(
            f"{name}: the column '{wanted[0]}' holds {kind}, no text: set data.text_field to a "
            f"column of text; the file has {', '.join(fields)}"
        )
    return [fields[field][0] for field in wanted]


def _fields_in(
    fields: Iterable["pyarrow.Field"], outer: Column = ()
) -> Iterator[tuple[Column, "pyarrow.DataType"]]:
    """All columns, and the fields of structs inside them, with their types."""
    from pyarrow import types

    for field in fields:
        yield (*outer, field.name), field.type
        if types.is_struct(field.type):
            inside = map(field.type.field, range(field.type.num_fields))
            yield from _fields_in(inside, (*outer, field.name))


def _damaged(name: str, error: Exception) -> UserError:
    return UserError(
        f"{name} is damaged or truncated ({first_line(error)}): copy or download it again, or "
        "exclude it with data.glob"
    )


def _import_pyarrow(name: str):
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise UserError(
            f"{name} needs pyarrow ({error}): install this package with its extra [parquet], "
            "as in pip install -e '.[parquet]'"
        ) from error
    return pyarrow
