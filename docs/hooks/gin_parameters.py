"""The table of every gin parameter: names, types, units, ranges and defaults from the code."""

import types
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import griffe

from block_recurrent.config.run_config import CLASSES
from block_recurrent.fields import Range, field_kinds

NAMES = {int: "integer", float: "number", bool: "`True` or `False`", str: "string"}


class Parameter(NamedTuple):
    """One row: `unit` is "" where a value has none, `description` where the docstring has none."""

    name: str
    kind: str
    unit: str
    default: Any
    description: str


def parameters_of(section: str) -> list[Parameter]:
    """The parameters of one section of the gin files, in the order of the code."""
    cls = CLASSES[section]
    described = descriptions(cls)
    rows = []
    for name, kind in field_kinds(cls).items():
        default, text = getattr(cls, name), described.get(name, "")
        rows.append(Parameter(name, kind_text(kind), unit_of(kind), default, text))
    return rows


def descriptions(cls: type) -> dict[str, str]:
    """The description of each attribute in a class's docstring."""
    sections = griffe.Docstring(cls.__doc__, parser="google").parse()
    found = [s for s in sections if s.kind is griffe.DocstringSectionKind.attributes]
    return {item.name: " ".join(item.description.split()) for s in found for item in s.value}


def unit_of(kind: Any) -> str:
    """The unit in an annotation, at any depth; "" if it has none."""
    if get_origin(kind) is Literal:
        return ""
    here = [each for each in getattr(kind, "__metadata__", ()) if isinstance(each, str)]
    return next(filter(None, [*here, *map(unit_of, get_args(kind))]), "")


def kind_text(kind: Any) -> str:
    """A type in words, with its range."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        ranges = [str(each) for each in arguments if isinstance(each, Range)]
        return ", ".join([kind_text(arguments[0]), *ranges])
    if origin is Literal:
        return "one of " + ", ".join(f"`{choice!r}`" for choice in arguments)
    if origin is tuple:
        return f"tuple, each {kind_text(arguments[0])}"
    if origin in (Union, types.UnionType):
        kinds = [kind_text(each) for each in arguments if each is not types.NoneType]
        return " or ".join([*kinds, "`None`"])
    return NAMES[kind]


def parameters_page() -> str:
    """A heading and a table for every section."""
    lines = []
    for section, cls in CLASSES.items():
        source = f"../{cls.__module__.replace('.', '/')}.py"
        lines += [f"## {section}", "", f"[`{cls.__name__}`]({source})", ""]
        lines += ["| parameter | default | unit | type | meaning |", "|---|---|---|---|---|"]
        for row in parameters_of(section):
            default = default_text(row.default)
            cells = [f"`{row.name}`", default, row.unit or "–", row.kind, row.description]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def default_text(default: Any) -> str:
    """As in a gin file; each item of a long tuple on its own line."""
    if isinstance(default, tuple) and len(repr(default)) > 40:
        return "<br>".join(f"`{part!r}`" for part in default)
    return f"`{default!r}`"
