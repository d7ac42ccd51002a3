"""Checked options: dataclasses that reject wrong types, choices, ranges and field names."""

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import types
from collections.abc import Callable, Iterable
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np

from block_recurrent.errors import UserError

Class = TypeVar("Class", bound=type)

EXPECTED = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "a string",
}


class Range(NamedTuple):
    """Limits of a number, as in ``Annotated[float, "fraction", Range(0, below=1)]``.

    Attributes:
      least: inclusive lower limit.
      above: exclusive lower limit.
      most: inclusive upper limit.
      below: exclusive upper limit.
    """

    least: int | float = -math.inf
    above: int | float = -math.inf
    most: int | float = math.inf
    below: int | float = math.inf

    def __contains__(self, value: int | float) -> bool:
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self):
        words = {"least": "at least", "above": "above", "most": "at most", "below": "below"}
        limits = {name: limit for name, limit in self._asdict().items() if math.isfinite(limit)}
        return " and ".join(f"{words[name]} {limit}" for name, limit in limits.items())


def checked(cls: Class) -> Class:
    """Decorates a dataclass: its constructor checks the fields against their annotations.

    Values are converted to the annotated type: NumPy numbers to Python numbers, an int to a float
    and a list to a tuple. `__post_init__` runs afterwards, for checks across fields.

    Raises:
      UserError: raised by the decorated class if a keyword is not a field, or a value does not
        match its annotation.
    """
    init = check_arguments(cls)(cls.__init__)

    @functools.wraps(init)
    def checked_init(self, *args, **kwargs):
        for name in kwargs:
            field_kind(cls, name)
        init(self, *args, **kwargs)

    cls.__init__ = checked_init
    return cls


def check_arguments(cls: type, **fields: str | None) -> Callable[[Callable], Callable]:
    """Decorates a function: checks and converts arguments like the fields of a dataclass.

    Args:
      cls: the dataclass. Arguments with the names of its fields are checked.
      **fields: for an argument with another name, its field; None: the argument is not checked.

    Raises:
      UserError: raised by the decorated function for an unknown keyword or a wrong value; see
        `check_value`.
    """

    def decorate(function):
        signature = inspect.signature(function)
        has_no = f"{function.__qualname__.removesuffix('.__init__')} has no argument"

        @functools.wraps(function)
        def checked_function(*args, **kwargs):
            for name in kwargs:
                if name not in signature.parameters:
                    raise UserError(_unknown(has_no, name, signature.parameters))
            bound, kinds = signature.bind(*args, **kwargs), field_kinds(cls)
            for name, value in bound.arguments.items():
                field = fields.get(name, name)
                if field in kinds:
                    bound.arguments[name] = check_value(name, value, kinds[field])
            return function(*bound.args, **bound.kwargs)

        return checked_function

    return decorate


@functools.cache
def field_kinds(cls: type) -> dict[str, Any]:
    """The annotation of every field of a dataclass, with units and ranges."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def field_kind(cls: type, name: str) -> Any:
    """The annotation of one field.

    Raises:
      UserError: the class has no such field; names the nearest one.
    """
    kinds = field_kinds(cls)
    if name not in kinds:
        raise UserError(_unknown(f"{cls.__name__} has no field", name, kinds))
    return kinds[name]


def check_field(cls: type, name: str, value: Any) -> Any:
    """The value as the dataclass stores it; see `check_value`."""
    return check_value(name, value, field_kind(cls, name))


def check_value(name: str, value: Any, kind: Any) -> Any:
    """Checks a value, and converts it to the annotated type.

    Args:
      name: name of the argument, for the message.
      value: the value that was passed.
      kind: int, float, bool, str, None, a dataclass, Literal[…], tuple[kind, ...], a union, or
        Annotated[kind, …] with a `Range`, or with a function that converts the value further.

    Raises:
      UserError: the value is not valid. The message names the argument, the value and valid ones,
        as in "remat = 'non': choose from 'none', 'attention', 'layer' (did you mean 'none'?)".
    """
    try:
        return _convert(value, kind)
    except ValueError as error:
        text = repr(value).replace("\n", " ")
        raise UserError(f"{name} = {text}: {error}") from error


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The most similar of some words, ignoring case; None if none is similar."""
    lower = {each.lower(): each for each in words}
    close = difflib.get_close_matches(word[:100].lower(), lower, n=1)  # slow for long words
    return lower[close[0]] if close else None


def _unknown(what: str, name: str, names: Iterable[str]) -> str:
    close = nearest(name, names)
    hint = f"did you mean {close}?" if close else f"choose from {', '.join(names)}"
    return f"{what} '{name}': {hint}"


def _convert(value: Any, kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(_convert(value, arguments[0]), arguments[1:])
    if origin is Literal:
        return _choice(value, arguments)
    if origin in (Union, types.UnionType):
        return _union(value, arguments)
    if origin is tuple:
        return _tuple(value, arguments[0])
    if kind in (int, float):
        return _number(value, kind)
    if kind is types.NoneType and value is not None:
        raise ValueError("None")
    if kind is bool and isinstance(value, np.bool_):
        return bool(value)
    if not isinstance(value, kind):
        raise ValueError(f"must be {EXPECTED.get(kind) or f'a {kind.__name__}'}")
    return str(value) if kind is str else value  # NumPy's strings are strings too


def _annotated(value: Any, annotations: tuple) -> Any:
    for each in annotations:
        if isinstance(each, Range) and value not in each:
            raise ValueError(f"must be {each}")
        if callable(each):
            value = each(value)
    return value


def _choice(value: Any, choices: tuple) -> Any:
    if isinstance(value, str) and value in choices:
        return str(value)
    close = nearest(value, choices) if isinstance(value, str) else None
    hint = f" (did you mean {close!r}?)" if close else ""
    raise ValueError(f"choose from {', '.join(map(repr, choices))}{hint}")


def _union(value: Any, kinds: tuple) -> Any:
    errors = []
    for kind in kinds:
        try:
            return _convert(value, kind)
        except ValueError as error:
            errors.append(str(error))
    raise ValueError(", or ".join(errors))


def _tuple(value: Any, kind: Any) -> tuple:
    if isinstance(value, tuple | list):
        return tuple(_convert(item, kind) for item in value)
    try:
        example = f"({_convert(value, kind)!r},)"
    except ValueError:
        example = "(1, 2), (1,) or ()"
    raise ValueError(f"must be a tuple: write {example}")


def _number(value: Any, kind: type) -> int | float:
    number = numbers.Real if kind is float else numbers.Integral
    if not isinstance(value, number) or isinstance(value, bool):
        whole = isinstance(value, float) and value.is_integer()
        raise ValueError(f"must be {EXPECTED[kind]}" + (f": write {int(value)}" if whole else ""))
    if not math.isfinite(value):
        raise ValueError("must be finite")
    return kind(value)
