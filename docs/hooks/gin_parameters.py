"""The table of every gin parameter: names, types, units and defaults from the code itself."""

import types
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import griffe

from block_recurrent.config.run_config import CLASSES

NAMES = {int: "integer", float: "number", bool: "`True` or `False`", str: "text"}


class Parameter(NamedTuple):
    """One row: `unit` is "" where a value has none, `description` where the docstring is silent."""

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
    for name, hint in get_type_hints(cls, include_extras=True).items():
        annotated = get_origin(hint) is Annotated
        kind, unit = get_args(hint)[:2] if annotated else (hint, "")
        default, text = getattr(cls, name), described.get(name, "")
        rows.append(Parameter(name, kind_text(kind), unit, default, text))
    return rows


def descriptions(cls: type) -> dict[str, str]:
    """What the Attributes section of a class's docstring says of each."""
    sections = griffe.Docstring(cls.__doc__, parser="google").parse()
    found = [s for s in sections if s.kind is griffe.DocstringSectionKind.attributes]
    return {item.name: " ".join(item.description.split()) for s in found for item in s.value}


def kind_text(kind: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(kind), get_args(kind)
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
    """As in a gin file; the parts of a long tuple on lines of their own."""
    if isinstance(default, tuple) and len(repr(default)) > 40:
        return "<br>".join(f"`{part!r}`" for part in default)
    return f"`{default!r}`"
