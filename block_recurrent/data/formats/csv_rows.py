"""CSV and TSV, whose first row has the names of the columns."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from io import IOBase

from block_recurrent.data.formats.rows import BadRow, Row, Share, missing_field
from block_recurrent.errors import UserError

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # of a text; by default 128 KiB


def csv_rows(
    stream: IOBase, name: str, wanted: Sequence[str], share: Share, delimiter: str
) -> Iterator[Row]:
    """The rows of a CSV file. Bytes that are not UTF-8 are kept.

    Args:
      stream: the file.
      name: of the file, for messages.
      wanted: names of the columns.
      share: which rows to give out.
      delimiter: between fields.

    Raises:
      UserError: the file has no such column.
    """
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    header = next(rows, None)
    if header is None:
        return
    if not set(wanted) <= set(header):
        raise UserError(f"{name}: {missing_field(wanted, header)}")
    columns = [header.index(field) for field in wanted]
    number = 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield Row(number + 1, BadRow(f"it is no CSV ({error})"))
            return  # what follows would be guessed
        if row is None:
            return
        if row and number in share:
            yield Row(number + 1, _values(row, header, columns))
        number += 1


def _values(
    row: Sequence[str], header: Sequence[str], columns: Sequence[int]
) -> Sequence[bytes | str] | BadRow:
    if len(row) != len(header):
        return BadRow(f"it has {len(row)} fields, and the header has {len(header)}")
    text, *others = (row[column] for column in columns)
    return [text.encode("utf-8", "surrogateescape"), *others]
