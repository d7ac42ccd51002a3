"""What MkDocs does to the pages before it renders them: text that lives elsewhere comes in.

A page may hold, each on a line of its own,

    <!-- parameters -->                    the tables of all gin parameters
    <!-- gin files -->                     every gin file that comes with the package
    <!-- code: module.Class.function -->   a class or function of the package, without docstring

README.md and the READMEs of launch/ and benchmarks/ become pages of the site; links in a page to
files of the repository become links to the pages that show them, or mere text where none does.
"""

import ast
import posixpath
import re
import textwrap
from pathlib import Path

from gin_parameters import parameters_page
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from block_recurrent.config.gin_files import shipped

ROOT = Path(__file__).parent.parent.parent
# Files of the repository that the site shows, and the page that does.
PAGES = {
    "README.md": "index.md",
    "launch/README.md": "launch.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
DIRECTIVE = re.compile(r"^<!-- (parameters|gin files|code: (\S+)) -->$", re.MULTILINE)


def on_files(files, config):
    """Adds the pages whose text lies outside docs/."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links to where the site has the files, and fills in what the comments ask for."""
    uri = page.file.src_uri
    home = next((source for source, name in PAGES.items() if name == uri), f"docs/{uri}")
    markdown = LINK.sub(lambda found: link(found, home, uri), markdown)
    return DIRECTIVE.sub(lambda found: directive(found[1], found[2]), markdown)


def directive(kind: str, name: str | None) -> str:
    """The text in place of a comment."""
    if kind == "parameters":
        return parameters_page()
    return code(name) if name else gin_page()


def link(found: re.Match, home: str, uri: str) -> str:
    """A link as it must be in the page `uri`, from how it stands in the file `home`."""
    label, target, anchor = found.groups()
    if ":" in target:  # a place on the web
        return found[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
    if path in PAGES:
        path = PAGES[path]
    elif path.startswith("docs/"):
        path = path.removeprefix("docs/")
    elif path.startswith("gin/"):
        path, anchor = "gin_files.md", "#" + anchor_of(path)
    elif (ROOT / path).exists():
        return label
    else:
        raise PluginError(f"{home} links to {target}, which is not there")
    path = posixpath.relpath(path, posixpath.dirname(uri) or ".")
    return f"[{label}]({path}{anchor or ''})"


def gin_page() -> str:
    """Every shipped gin file, whole."""
    files = ((name, (ROOT / name).read_text(encoding="utf-8")) for name in shipped())
    return "\n".join(
        f"## {name} {{ #{anchor_of(name)} }}\n\n```python\n{text}```\n" for name, text in files
    )


def anchor_of(path: str) -> str:
    return re.sub(r"\W+", "-", path)


def code(name: str) -> str:
    """The lines that define a class or a function, above a link to it in the API reference."""
    path, lines, node = definition(name)
    documented = ast.get_docstring(node) is not None
    left_out = range(node.body[0].lineno, node.body[0].end_lineno + 1) if documented else ()
    numbers = (n for n in range(node.lineno, node.end_lineno + 1) if n not in left_out)
    text = textwrap.dedent("\n".join(lines[n - 1] for n in numbers))
    text = re.sub(r":\n\n", ":\n", text, count=1)  # what parted the docstring from the first line
    return f'```python title="{path}, line {node.lineno}"\n{text}\n```\n\n[`{name}`][{name}]\n'


def definition(name: str) -> tuple[str, list[str], ast.AST]:
    """Path, lines and syntax tree of a class or function. Raises PluginError if it is not there."""
    parts = name.split(".")
    paths = {n: "/".join(parts[:n]) + ".py" for n in range(1, len(parts))}
    depth = max((n for n in paths if (ROOT / paths[n]).is_file()), default=None)
    if depth is None:
        raise PluginError(f"no module for {name}")
    path = paths[depth]
    text = (ROOT / path).read_text(encoding="utf-8")
    node = ast.parse(text)
    for part in parts[depth:]:
        node = next((n for n in node.body if getattr(n, "name", None) == part), None)
        if node is None:
            raise PluginError(f"no {name} in {path}")
    return path, text.splitlines(), node
