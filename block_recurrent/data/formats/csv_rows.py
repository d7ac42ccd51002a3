"""CSV and TSV, whose first row names the columns."""

import csv
import io
import itertools
import sys
from collections.abc import Iterator, Sequence
from io import IOBase

from block_recurrent.data.formats.rows import BadRow, Row, Share, missing_field
from block_recurrent.errors import UserError

DELIMITERS = ",;\t|"  # as spreadsheets write them, by country

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
      delimiter: between fields, unless the first row has the wanted names with another one.

    Raises:
      UserError: the file has no such column.
    """
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    first = text.readline()
    if not first:
        return
    delimiter = _delimiter(first, wanted, delimiter)
    rows = csv.reader(itertools.chain([first], text), delimiter=delimiter, strict=True)
    try:
        header = next(rows)
    except csv.Error as error:
        raise UserError(
            f"{name}: its first row, which names the columns, is no CSV ({error}): correct it, or "
            "read the file as plain text with data.format = 'text'"
        ) from error
    if not set(wanted) <= set(header):
        raise UserError(f"{name}: in its first row, {missing_field(wanted, header)}")
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


def _delimiter(line: str, wanted: Sequence[str], usual: str) -> str:
    """The delimiter by which a first line has the wanted names; else the usual one."""
    for delimiter in (usual, *DELIMITERS):
        if set(wanted) <= set(next(csv.reader([line], delimiter=delimiter), ())):
            return delimiter
    return usual


def _values(
    row: Sequence[str], header: Sequence[str], columns: Sequence[int]
) -> Sequence[bytes | str] | BadRow:
    if len(row) != len(header):
        return BadRow(f"it has {len(row)} fields, and the header has {len(header)}")
    text, *others = (row[column] for column in columns)
    return [text.encode("utf-8", "surrogateescape"), *others]
