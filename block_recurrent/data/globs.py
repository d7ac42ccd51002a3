"""Patterns of paths: `matches('sub/a.txt', '**/*.txt')`."""

from fnmatch import fnmatchcase


def matches(name: str, glob: str) -> bool:
    """Whether a path matches a pattern; both have '/' separators.

    '**' stands for any number of folders. A file or folder whose name starts with a dot only
    matches a part of the pattern that starts with a dot.
    """
    return _matches(name.split("/"), _parts(glob))


def names_dotted(glob: str) -> bool:
    """Whether a part of the pattern starts with a dot, so that hidden folders can match."""
    return any(part.startswith(".") for part in _parts(glob))


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
