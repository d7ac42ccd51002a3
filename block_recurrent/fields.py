"""Whether a value suits the field of a configuration, going by the field's annotation."""

import math
import types
from typing import Any, Literal, Union, get_args, get_origin

WANTED = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "text in quotes",
}


def conform(value: Any, kind: Any) -> Any:
    """`value` as a field of type `kind` holds it: an int for a float and a list for a tuple may do.

    Args:
      value: what somebody has written.
      kind: int, float, bool, str, Literal[…], tuple[kind, ...], or one of them `| None`.

    Raises:
      ValueError: it does not suit. The message says what would: "must be an integer".
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _choice(value, arguments)
    if origin in (Union, types.UnionType):
        return _optional(value, arguments)
    if origin is tuple:
        return _sequence(value, arguments[0])
    if kind is int and type(value) is float and value.is_integer():
        raise ValueError(f"must be an integer: write {int(value)}")
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:  # isinstance would take True for an integer
        raise ValueError(f"must be {WANTED[kind]}")
    if kind is float and not math.isfinite(value):
        raise ValueError("must be finite")
    return value


def _choice(value: Any, choices: tuple) -> Any:
    if value not in choices:
        raise ValueError(f"choose from {', '.join(map(repr, choices))}")
    return value


def _optional(value: Any, kinds: tuple) -> Any:
    if value is None:
        return None
    (kind,) = (kind for kind in kinds if kind is not types.NoneType)
    try:
        return conform(value, kind)
    except ValueError as error:
        raise ValueError(f"{error}, or None") from error


def _sequence(value: Any, kind: Any) -> tuple:
    if not isinstance(value, tuple | list):
        example = f"({value!r},)" if type(value) is kind else "(1, 2), (1,) or ()"
        raise ValueError(f"must be a tuple: write {example}")
    return tuple(conform(item, kind) for item in value)
