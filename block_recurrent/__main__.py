"""List the commands: ``python -m block_recurrent``."""

import ast
import pkgutil
import sys

import block_recurrent
from block_recurrent.console.cli import run_main
from block_recurrent.errors import UserError
from block_recurrent.fields import nearest


def commands() -> dict[str, str]:
    """What each command does, by name.

    The commands are the modules at the top of the package that can be run; what they do is the
    beginning of their docstrings. They are read, not imported.
    """
    found = {}
    for module in pkgutil.iter_modules(block_recurrent.__path__):
        name = f"{block_recurrent.__name__}.{module.name}"
        source = module.module_finder.find_spec(name).loader.get_source(name) or ""
        if module.name != "__main__" and '\nif __name__ == "__main__":\n' in source:
            summary = ast.get_docstring(ast.parse(source)).splitlines()[0]
            found[module.name] = summary.partition(": ``")[0]
    return found


def main():
    known, arguments = commands(), sys.argv[1:]
    if arguments and arguments[0] not in ("-h", "--help"):
        close = nearest(arguments[0], known) or "COMMAND"
        raise UserError(
            f"python -m block_recurrent only lists the commands, and was given {arguments[0]!r}: "
            f"run python -m block_recurrent.{close}"
        )
    width = max(map(len, known))
    print("usage: python -m block_recurrent.COMMAND …\n")
    print("\n".join(f"  {name:<{width}}  {summary}" for name, summary in known.items()))
    print("\npython -m block_recurrent.COMMAND --help lists the arguments of a command.")


if __name__ == "__main__":
    run_main(main)
