"""Rows of fields, as JSON lines, CSV and parquet have them, and the documents that they make."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.split_names import Split
from block_recurrent.errors import UserError
from block_recurrent.fields import nearest

MOST_NAMES, LONGEST_NAME = 20, 40  # of fields, in messages


class Document(NamedTuple):
    """A document, or a part of one that `groups` joins with others.

    Attributes:
      name: of the document.
      pieces: its bytes. They must be read before the next document, or not at all.
      split: what the path of its file says, or `data.held_out` says of it; None: nothing.
      place: what the parts of a document are sorted by; None: nothing.
    """

    name: str
    pieces: Iterable[bytes]
    split: Split | None
    place: Any = None


class Share(NamedTuple):
    """Every `of`-th row (or document, or group of rows) of a file, from `index`."""

    index: int = 0
    of: int = 1

    def __contains__(self, number: int) -> bool:
        return number % self.of == self.index


class BadRow(ValueError):
    """Why a row is no document, without its place."""


class Row(NamedTuple):
    """A row of a file.

    Attributes:
      number: from 1; the number of its line in JSON lines.
      values: of the wanted fields, or why the row has none.
    """

    number: int
    values: Sequence[Any] | BadRow


class Fields:
    """The fields that make documents of rows, by `data.text_field` and the options beside it.

    Attributes:
      wanted: their names, the text first.
      skipped: rows that were left out because of `data.skip_bad_rows`.
    """

    def __init__(self, data: DataConfig):
        if data.order_by is not None and data.group_by is None:
            raise UserError(
                f"data.order_by = '{data.order_by}' has no effect without data.group_by: set "
                "data.group_by to the field that rows of one document share, or remove it"
            )
        self._data = data
        self._named_by = data.group_by or data.name_field
        fields = (data.text_field, self._named_by, data.order_by)
        self.wanted = [field for field in fields if field is not None]
        self.skipped = 0

    def documents(self, file: str, rows: Iterable[Row], split: Split | None) -> Iterator[Document]:
        """The documents in the rows of a file, which belongs to a split or None.

        Raises:
          UserError: a row has no text, unless `data.skip_bad_rows` is set.
        """
        for number, values in rows:
            try:
                if isinstance(values, BadRow):
                    raise values
                yield self._document(f"{file}:{number}", values, split)
            except BadRow as error:
                if not self._data.skip_bad_rows:
                    raise UserError(
                        f"{file}, row {number}: {error}; correct the row, or leave such rows out "
                        "with data.skip_bad_rows = True"
                    ) from error
                self.skipped += 1

    def _document(self, place: str, values: Sequence[Any], split: Split | None) -> Document:
        pieces = _pieces(values[0], self._data.text_field)
        if self._named_by is None:
            return Document(place, pieces, split)
        name = values[1]
        if name is None and self._data.group_by is not None:
            raise BadRow(f"the field '{self._named_by}', which groups the rows, is null")
        if isinstance(name, dict | list):
            raise BadRow(f"the field '{self._named_by}', which names it, is no text or number")
        order = values[2] if self._data.order_by is not None else None
        return Document(place if name is None else str(name), pieces, split, order)


def select(row: dict[str, Any], wanted: Sequence[str]) -> list[Any] | BadRow:
    """The values of the wanted fields, of which 'a.b' is the field 'b' of the object 'a'."""
    try:
        return [row[field] for field in wanted]
    except KeyError:
        pass
    try:
        return [_value(row, field) for field in wanted]
    except KeyError:
        return BadRow(missing_field(wanted, list(_names(row))))


def _value(row: dict[str, Any], field: str) -> Any:
    """The value of a field, or of a field inside it; None if that is in a null."""
    if field in row:
        return row[field]
    outer, dot, inner = field.partition(".")
    value = row[outer]
    if not dot or not isinstance(value, dict | None):
        raise KeyError(field)
    return None if value is None else _value(value, inner)


def _names(row: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The names of all fields, also of those inside others."""
    for name, value in row.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{name}.")


def missing_field(wanted: Sequence[str], there: Sequence[str]) -> str:
    """Says which wanted field is not there, and which one may be meant."""
    field = next(field for field in wanted if field not in there)
    inside = (name for name in there if name.endswith(f".{field}"))
    if close := next(inside, None) or nearest(field, there):
        hint = f"did you mean '{_short(close)}'?"
    else:
        hint = f"it has {', '.join(map(_short, there[:MOST_NAMES])) or 'none'}"
    return (
        f"it has no field '{field}' ({hint}); fields are set by data.text_field and the like, and "
        "data.format = 'text' reads files as plain text"
    )


def _short(name: str) -> str:
    """A name that fits into a line; what is no header can be anything."""
    name = " ".join(name.split())
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"


def _pieces(text: Any, field: str) -> Iterable[bytes]:
    if isinstance(text, str):
        try:
            return (text.encode(),)
        except UnicodeEncodeError as error:
            raise BadRow(f"the field '{field}' has half of a surrogate pair") from error
    if isinstance(text, bytes):
        return (text,)
    if text is None:
        raise BadRow(f"the field '{field}' is null")
    if isinstance(text, Iterator):
        return text
    raise BadRow(f"the field '{field}' holds {type(text).__name__}, no text")
