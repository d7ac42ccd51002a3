"""Gin files: where they are found, the bindings in them, and the values of macros.

Only the parser of gin-config is used. Gin's global state (bindings, macros, configurables) is
neither read nor changed. `run_config` knows which parameters exist.
"""

import dataclasses
import io
import os
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gin import config_parser

from block_recurrent.errors import UserError
from block_recurrent.fields import nearest
from block_recurrent.files.paths import AnyPath, in_bucket, workdir_path

PACKAGE = Path(__file__).parent.parent
# An installed package contains gin/; in a clone of the repository, gin/ is next to the package.
SHIPPED_ROOT = PACKAGE if (PACKAGE / "gin").is_dir() else PACKAGE.parent
COMMAND_LINE = "--gin_bindings"
CONSTANTS = {"true": "True", "false": "False", "none": "None", "null": "None"}


class Binding(NamedTuple):
    """One ``section.name = value``, or one macro ``NAME = value``, whose section is "".

    Attributes:
      section: for example "train".
      name: the parameter, or the macro.
      value: a Python value; a macro or a reference in it is a `Macro` or a `Reference`.
      place: file and line, for messages.
    """

    section: str
    name: str
    value: Any
    place: str


@dataclasses.dataclass(frozen=True)
class Macro:
    """``%NAME`` in a value."""

    name: str

    def __repr__(self):
        return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Reference:
    """``@name`` in a value: a function. No parameter accepts one, since configurations are data."""

    name: str

    def __repr__(self):
        return f"@{self.name}"


def shipped_gin_files() -> list[str]:
    """The gin files that come with the package, named as on the command line."""
    return sorted(
        path.relative_to(SHIPPED_ROOT).as_posix() for path in SHIPPED_ROOT.glob("gin/**/*.gin")
    )


def find_gin_file(name: str, beside: AnyPath | None = None) -> AnyPath:
    """Finds a gin file: in a bucket; else in the current folder, in `beside`, or in the package.

    Raises:
      UserError: the file is not found.
    """
    if in_bucket(name):
        places = [workdir_path(name)]
    else:
        folders = filter(None, (Path(), beside, SHIPPED_ROOT))
        places = [folder / os.path.expanduser(name) for folder in folders]
    for path in places:
        if path.is_file():
            return path
    close = nearest(name, shipped_gin_files())
    hint = f"did you mean {close}?" if close else f"choose from {', '.join(shipped_gin_files())}"
    raise UserError(
        f"no gin file '{name}' in {Path.cwd()} or among those shipped with block_recurrent: {hint}"
    )


def read_bindings(gin_files: Sequence[str], bindings: Sequence[str]) -> Iterator[Binding]:
    """Yields the bindings of the files and their includes, then the single bindings.

    Raises:
      UserError: a file is missing, or contains more than bindings and includes.
    """
    for name in gin_files:
        yield from _read_file(find_gin_file(name), ())
    for text in bindings:
        yield from _parse(text, COMMAND_LINE, None, ())


def macros_in(value: Any) -> Iterator[str]:
    """The names of the macros in the value of a binding."""
    if isinstance(value, Macro):
        yield value.name
    elif isinstance(value, list | tuple):
        for item in value:
            yield from macros_in(item)


def evaluate(binding: Binding, macros: Mapping[str, Binding]) -> Binding:
    """Replaces the macros in a binding by their values, and adds their places to its place.

    Raises:
      UserError: a macro is not set, or refers to itself.
    """
    places = [binding.place]

    def value_of(value: Any, path: tuple[Binding, ...]) -> Any:
        if isinstance(value, Macro):
            macro = _macro(value.name, path, macros)
            places.append(macro.place)
            return value_of(macro.value, (*path, macro))
        if isinstance(value, list | tuple):
            return type(value)([value_of(item, path) for item in value])
        return value

    value = value_of(binding.value, (binding,))
    return binding._replace(value=value, place=", macro from ".join(places))


def _macro(name: str, path: tuple[Binding, ...], macros: Mapping[str, Binding]) -> Binding:
    """The binding of a macro; `path` are the bindings from the parameter to the macro's use."""
    if name not in macros:
        close = nearest(name, macros)
        hint = f"did you mean %{close}?" if close else f"set {name} = …"
        raise UserError(f"{path[-1].place}: the macro {name} is not set: {hint}")
    if macros[name] in path:
        names = [each.name for each in path[path.index(macros[name]) :]]
        raise UserError(
            f"{macros[name].place}: the macro {name} refers to itself "
            f"({' → '.join([*names, name])}): give it a value"
        )
    return macros[name]


def _read_file(path: AnyPath, including: tuple[AnyPath, ...]) -> Iterator[Binding]:
    if path.resolve() in including:
        raise UserError(f"{path} includes itself: remove that include")
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} as UTF-8 text ({error}): name a gin file") from error
    yield from _parse(text, str(path), path.parent, (*including, path.resolve()))


def _parse(
    text: str, source: str, folder: AnyPath | None, including: tuple[AnyPath, ...]
) -> Iterator[Binding]:
    """Yields the bindings in `text`. Its includes are also looked up in `folder`."""

    def place(line: int) -> str:
        return f"{source}:{line}" if folder else source

    for statement in _statements(text, place):
        here = place(statement.location.line_num)
        if isinstance(statement, config_parser.IncludeStatement):
            try:
                path = find_gin_file(statement.filename, folder)
            except UserError as error:
                raise UserError(f"{here}: {error}") from error
            yield from _read_file(path, including)
        elif isinstance(statement, config_parser.ImportStatement):
            raise UserError(f"{here}: a gin file cannot import code: remove the import")
        elif isinstance(statement, config_parser.BindingStatement):
            yield _binding(statement, here)


def _statements(text: str, place: Callable[[int], str]) -> list:
    """Parses gin statements. Raises UserError for a syntax error, with its place and a fix."""
    try:
        return list(config_parser.ConfigParser(io.StringIO(text), _Delegate()))
    except SyntaxError as error:
        number, fix = error.lineno, _suggest_fix(error.msg)
        cause = error
    except tokenize.TokenError as error:
        number, fix = error.args[1][0], "close the bracket or the quotes"
        cause = error
    lines = text.rstrip().splitlines()
    number = min(number, len(lines))
    line = lines[number - 1].strip()
    raise UserError(f"{place(number)}: cannot read '{line}': {fix}") from cause


def _suggest_fix(message: str) -> str:
    """What to write instead, derived from gin's error message."""
    _, found, token = message.partition("Failed to parse token ")
    if not found:
        return "write section.parameter = value, strings in quotes"
    word = token.strip("'")
    return f"{word} is not a value, write {CONSTANTS.get(word.lower(), repr(word))}"


def _binding(statement: config_parser.BindingStatement, place: str) -> Binding:
    section, name = statement.selector, statement.arg_name
    if statement.scope:
        raise UserError(f"{place}: gin's scopes are not supported: remove '{statement.scope}/'")
    if not name:
        section, name = "", section
    return Binding(section, name, statement.value, place)


class _Delegate(config_parser.ParserDelegate):
    """Makes the values of references and macros for gin's parser."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_configurable_name)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)
