"""Parquet and Arrow files: those of Hugging Face datasets, and any others."""

from collections.abc import Iterator, Sequence
from io import IOBase
from typing import TYPE_CHECKING, Any

from block_recurrent.data.formats.compression import seekable
from block_recurrent.data.formats.rows import Row, Share, missing_field
from block_recurrent.errors import UserError, first_line

if TYPE_CHECKING:
    import pyarrow

BATCH_BYTES = 2**22  # of text that is decoded at once
MOST_ROWS = 4096  # decoded at once


def parquet_rows(stream: IOBase, name: str, wanted: Sequence[str], share: Share) -> Iterator[Row]:
    """The rows of a parquet file; of a share, its row groups.

    Raises:
      UserError: the file is damaged, has no such column, or pyarrow is not installed.
    """
    pyarrow = _import_pyarrow(name)
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(seekable(stream), buffer_size=2**20)
        _check_columns(file.schema_arrow, name, wanted)
        first = 0  # row of the group
        for index in range(file.num_row_groups):
            group = file.metadata.row_group(index)
            if index in share:
                size = max(group.total_byte_size // max(group.num_rows, 1), 1)
                batches = file.iter_batches(
                    batch_size=min(max(BATCH_BYTES // size, 1), MOST_ROWS),
                    row_groups=[index],
                    columns=list(wanted),
                    use_threads=False,
                )
                yield from _rows(batches, first, wanted)
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
        _check_columns(reader.schema, name, wanted)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if whole else reader
        first = 0
        for index, batch in enumerate(batches):
            if index in share:
                yield from _rows([batch], first, wanted)
            first += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(name, error) from error


def _rows(batches: Iterator["pyarrow.RecordBatch"], first: int, wanted: Sequence[str]):
    import pyarrow

    for batch in batches:
        text = batch.column(wanted[0]).cast(pyarrow.large_binary()).to_pylist()
        others = [batch.column(field).to_pylist() for field in wanted[1:]]
        for values in zip(text, *others, strict=True):
            first += 1
            yield Row(first, values)


def _check_columns(schema: "pyarrow.Schema", name: str, wanted: Sequence[str]):
    from pyarrow import types

    if not set(wanted) <= set(schema.names):
        raise UserError(f"{name}: {missing_field(wanted, schema.names)}")
    kind: Any = schema.field(wanted[0]).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    texts += (types.is_binary, types.is_large_binary, types.is_binary_view)
    if not any(is_text(kind) for is_text in texts):
        raise UserError(
            f"{name}: the column '{wanted[0]}' holds {kind}, no text: set data.text_field to a "
            f"column of text; the file has {', '.join(schema.names)}"
        )


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
            f"{name} needs pyarrow ({error}): pip install 'block_recurrent[parquet]'"
        ) from error
    return pyarrow
