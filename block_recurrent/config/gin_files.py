"""Gin files: where they are looked up, and the bindings in them.

Only gin's syntax is read here; `configs.py` knows which parameters exist.
"""

import difflib
import io
import tokenize
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gin
from gin import config_parser

from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath, in_bucket, workdir_path

PACKAGE = Path(__file__).parent.parent
# setup.py installs gin/ inside the package; a clone has it beside the package.
SHIPPED = PACKAGE if (PACKAGE / "gin").is_dir() else PACKAGE.parent
COMMAND_LINE = "--gin_bindings"
CONSTANTS = {"true": "True", "false": "False", "none": "None", "null": "None"}


class Binding(NamedTuple):
    """One ``section.name = value``, or one macro ``NAME = value``, where section is "".

    Attributes:
      section: the configurable, "train" for example.
      name: the parameter, or the macro.
      value: a literal; macros inside it are gin's references.
      place: where it stands, for messages.
    """

    section: str
    name: str
    value: Any
    place: str


def shipped() -> list[str]:
    """The gin files that come with the package, named as on the command line."""
    return sorted(path.relative_to(SHIPPED).as_posix() for path in SHIPPED.glob("gin/**/*.gin"))


def find(name: str, beside: AnyPath | None = None) -> AnyPath:
    """Looks in the current folder, then in `beside`, then among the shipped files; or in a bucket.

    Raises:
      UserError: it is in none of them.
    """
    if in_bucket(name):
        places = [workdir_path(name)]
    else:
        folders = filter(None, (Path(), beside, SHIPPED))
        places = [folder / Path(name).expanduser() for folder in folders]
    for path in places:
        if path.is_file():
            return path
    near = difflib.get_close_matches(name, shipped(), n=1)
    mend = f"did you mean {near[0]}?" if near else f"shipped are {', '.join(shipped())}"
    raise UserError(
        f"no gin file '{name}' in {Path.cwd()} or among those shipped with block_recurrent: {mend}"
    )


def read(gin_files: Sequence[str], bindings: Sequence[str]) -> Iterator[Binding]:
    """The bindings of the files, includes in their places, then the single ones, in order.

    Raises:
      UserError: a file is missing, or something in it is no plain data.
    """
    for name in gin_files:
        yield from _read_file(find(name), ())
    for text in bindings:
        yield from _parse(text, COMMAND_LINE, None, ())


def _read_file(path: AnyPath, including: tuple[AnyPath, ...]) -> Iterator[Binding]:
    if path.resolve() in including:
        raise UserError(f"{path} includes itself: take the include out of it")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} as UTF-8 text ({error}): name a gin file") from error
    yield from _parse(text, str(path), path.parent, (*including, path.resolve()))


def _parse(
    text: str, source: str, folder: AnyPath | None, including: tuple[AnyPath, ...]
) -> Iterator[Binding]:
    """The bindings in `text`; `folder` is one more place to look up its includes."""

    def place(line: int) -> str:
        return f"{source}:{line}" if folder else source

    for statement in _statements(text, place):
        here = place(statement.location.line_num)
        if isinstance(statement, config_parser.IncludeStatement):
            try:
                path = find(statement.filename, folder)
            except UserError as error:
                raise UserError(f"{here}: {error}") from error
            yield from _read_file(path, including)
        elif isinstance(statement, config_parser.ImportStatement):
            raise UserError(f"{here}: a configuration is data: take the import out")
        elif isinstance(statement, config_parser.BindingStatement):
            yield _binding(statement, here)


def _statements(text: str, place: Callable[[int], str]) -> list:
    """Gin's statements, and its errors in one line that says where and what."""
    try:
        return list(config_parser.ConfigParser(io.StringIO(text), _Delegate()))
    except SyntaxError as error:
        number, mend = error.lineno, _mend(error.msg)
        cause = error
    except tokenize.TokenError as error:
        number, mend = error.args[1][0], "close the bracket or the quotes"
        cause = error
    lines = text.rstrip().splitlines()
    number = min(number, len(lines))
    line = lines[number - 1].strip()
    raise UserError(f"{place(number)}: cannot read '{line}': {mend}") from cause


def _mend(message: str) -> str:
    """What to write instead, from gin's message about the syntax."""
    _, found, token = message.partition("Failed to parse token ")
    if not found:
        return "write section.parameter = value, text in quotes"
    word = token.strip("'")
    return f"{word} is no value, write {CONSTANTS.get(word.lower(), repr(word))}"


def _binding(statement: config_parser.BindingStatement, place: str) -> Binding:
    section, name = statement.selector, statement.arg_name
    if statement.scope:
        raise UserError(f"{place}: gin's scopes are not used here: take '{statement.scope}/' out")
    if not name:
        section, name = "", section
    return Binding(section, name, statement.value, place)


class _Delegate(gin.config.ParserDelegate):
    """Keeps a reference to a function as a value that no parameter takes: a config is data."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool):
        return _Reference(scoped_configurable_name)


class _Reference:
    def __init__(self, name: str):
        self.name = name

    def __repr__(self):
        return f"@{self.name}"
