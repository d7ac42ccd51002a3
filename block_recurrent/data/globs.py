"""Patterns of paths: `matches('sub/a.txt', '**/*.txt')`."""

from collections.abc import Sequence
from fnmatch import fnmatchcase


def matches(name: str, glob: str | Sequence[str]) -> bool:
    """Whether a path matches a pattern, or one of several; all have '/' separators.

    '**' stands for any number of folders. A file or folder whose name starts with a dot only
    matches a part of the pattern that starts with a dot.
    """
    path = name.split("/")
    return any(_matches(path, _parts(each)) for each in _each(glob))


def or_below(glob: str) -> tuple[str, str]:
    """Patterns of what matches a pattern, and of what lies in a folder that does."""
    return glob, f"{glob}/**/*"


def names_dotted(glob: str | Sequence[str]) -> bool:
    """Whether a part of a pattern starts with a dot, so that hidden folders can match."""
    return any(part.startswith(".") for each in _each(glob) for part in _parts(each))


def _each(glob: str | Sequence[str]) -> Sequence[str]:
    return [glob] if isinstance(glob, str) else glob


def _parts(glob: str) -> list[str]:
    return [part for part in glob.split("/") if part not in ("", ".")]


def _matches(parts: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**" and _matches(parts, patterns[1:]):
        return True
    if not parts or (parts[0].startswith(".") and not patterns[0].startswith(".")):
        return False
    if patterns[0] == "**":
        return _matches(parts[1:], patterns)
    return fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])
