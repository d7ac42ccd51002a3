"""The MkDocs hook: pages from outside docs/, and links that work on the site.

README.md, CHANGELOG.md and the READMEs of launch/ and benchmarks/ become pages of the site. The
links in the sources are relative paths that work on a code host. On the site a link to a page stays
a link to that page, a link to the source of a class or function leads to the API reference, a link
to a gin file leads to its text on gin_files.md, and links to all other files become plain text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
# Files outside docs/ that are pages of the site.
PAGES = {
    "README.md": "index.md",
    "launch/README.md": "launch.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
CODE_BLOCK = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files, config):
    """Add the pages whose sources are outside docs/."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite the links of a page, outside code blocks."""
    uri = page.file.src_uri
    home = next((source for source, name in PAGES.items() if name == uri), f"docs/{uri}")
    parts = CODE_BLOCK.split(markdown)
    parts[::2] = [LINK.sub(lambda m: link(m, home, uri), text) for text in parts[::2]]
    return "".join(parts)


def link(found: re.Match, home: str, uri: str) -> str:
    """The link on page `uri` for a link in its source file `home`."""
    label, target, anchor = found.groups()
    if ":" in target:  # a URL
        return found[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
    if not (ROOT / path).exists():
        raise PluginError(f"{home} links to {target}, which does not exist")
    if path in PAGES:
        path = PAGES[path]
    elif path.startswith("docs/"):
        path = path.removeprefix("docs/")
    elif path.startswith("gin/"):
        path, anchor = "gin_files.md", "#" + re.sub(r"[^\w-]", "", path)
    elif path.startswith("block_recurrent/") and path.endswith(".py") and label.startswith("`"):
        return f"[{label}][{api_name(label.strip('`'), path)}]"
    else:
        return label
    path = posixpath.relpath(path, posixpath.dirname(uri) or ".")
    return f"[{label}]({path}{anchor or ''})"


def api_name(name: str, path: str) -> str:
    """The full dotted name of `name`, which the file at `path` defines."""
    if name.startswith("block_recurrent."):
        return name
    return f"{path.removesuffix('.py').replace('/', '.')}.{name}"
