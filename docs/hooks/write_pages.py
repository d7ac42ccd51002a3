"""Write the generated parts of docs/, README.md and the notebooks.

Run `python docs/hooks/write_pages.py`.

A generated part stands between two comments, which stay in the page. The first names its content:

    <!-- parameters -->                    the tables of all gin parameters
    <!-- gin files -->                     every gin file that comes with the package
    <!-- code: module.Class.function -->   a class or function of the package, without docstring
    <!-- colab: quickstart -->             how to open a notebook on Colab; *: all notebooks
    <!-- settings: FILE -->                what a gin file sets of the training
    <!-- differences: FILE FILE … -->      where gin files set different values
    <!-- end -->
"""

import argparse
import ast
import json
import os
import re
import textwrap
from pathlib import Path

from colab import open_on_colab, repository, with_address
from gin_parameters import parameters_page
from gin_settings import settings_table

from block_recurrent.config.gin_files import shipped_gin_files

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = re.compile(
    r"^(<!-- (parameters|gin files|code|colab|settings|differences)(?:: (.+?))? -->\n)"
    r"(.*?)(^<!-- end -->$)",
    re.MULTILINE | re.DOTALL,
)


def main():
    """Rewrite the files whose generated parts are out of date."""
    argparse.ArgumentParser(description=__doc__.split("\n\n")[0]).parse_args()
    for path, text in out_of_date().items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


def out_of_date() -> dict[Path, str]:
    """The files whose generated parts are out of date, and their new texts."""
    found = {}
    for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")), *ROOT.glob("notebooks/*.ipynb")):
        text = path.read_text(encoding="utf-8")
        new = notebook(text) if path.suffix == ".ipynb" else with_generated_parts(text)
        found |= {path: new} if new != text else {}
    return found


def notebook(text: str) -> str:
    """The text of a notebook with its generated parts, and the address of the repository."""
    content = json.loads(text)
    for cell in content["cells"]:
        source = with_generated_parts("".join(cell["source"]))
        if "parameters" in cell["metadata"].get("tags", ()):
            source = with_address(source, repository())
        cell["source"] = source.splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def with_generated_parts(page: str) -> str:
    """The text of a page with every generated part written anew."""
    return GENERATED.sub(lambda m: f"{m[1]}\n{content(m[2], m[3])}\n{m[5]}", page)


def content(kind: str, names: str | None) -> str:
    """The text between the two comments."""
    if kind == "parameters":
        return parameters_page()
    if kind == "gin files":
        return gin_page()
    if kind == "colab":
        return open_on_colab(names, repository())
    return code(names) if kind == "code" else settings_table(names.split())


def gin_page() -> str:
    """The text of every gin file of the package under a heading."""
    files = ((name, (ROOT / name).read_text(encoding="utf-8")) for name in shipped_gin_files())
    return "\n".join(f"## {name}\n\n```python\n{text}```\n" for name, text in files)


def code(name: str) -> str:
    """A link to the definition of a class or function, and its lines without the docstring."""
    path, lines, node = definition(name)
    documented = ast.get_docstring(node) is not None
    left_out = range(node.body[0].lineno, node.body[0].end_lineno + 1) if documented else ()
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    numbers = (n for n in range(first, node.end_lineno + 1) if n not in left_out)
    text = textwrap.dedent("\n".join(lines[n - 1] for n in numbers))
    text = re.sub(r":\n\n", ":\n", text, count=1)  # the blank line after the docstring
    link = f"{os.path.relpath(ROOT / path, DOCS)}#L{first}-L{node.end_lineno}"
    return f"[`{name}`]({link}):\n\n```python\n{text}\n```\n"


def definition(name: str) -> tuple[str, list[str], ast.AST]:
    """Path, lines and syntax tree of a class or function. Raises LookupError if it is not found."""
    parts = name.split(".")
    paths = {n: "/".join(parts[:n]) + ".py" for n in range(1, len(parts))}
    depth = max((n for n in paths if (ROOT / paths[n]).is_file()), default=None)
    if depth is None:
        raise LookupError(f"no module for {name}")
    path = paths[depth]
    text = (ROOT / path).read_text(encoding="utf-8")
    node = ast.parse(text)
    for part in parts[depth:]:
        node = next((n for n in node.body if getattr(n, "name", None) == part), None)
        if node is None:
            raise LookupError(f"no {name} in {path}")
    return path, text.splitlines(), node


if __name__ == "__main__":
    main()
