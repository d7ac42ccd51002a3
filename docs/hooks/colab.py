"""How to open the notebooks on Colab, for README.md and the notebooks themselves.

The address of the repository stands in one place, as `Repository` under `[project.urls]` in
pyproject.toml. While it has none, or one that Colab cannot open, the text says what to do instead.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
COLAB = "https://colab.research.google.com"
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?")
UPLOAD = f"""\
To run {{}} on [Colab]({COLAB}), upload its file there (File → Upload notebook), and set
`REPOSITORY` in the first code cell to the address of the repository.
"""


def repository() -> str | None:
    """The address of the repository in the project's metadata; None if it has none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository")


def open_on_colab(pattern: str, address: str | None) -> str:
    """Badges that open notebooks, or what to do without.

    Args:
      pattern: which of the notebooks, such as 'quickstart', or '*' for all.
      address: of the repository.
    """
    names = sorted(path.stem for path in (ROOT / "notebooks").glob(f"{pattern}.ipynb"))
    found = GITHUB.fullmatch(address or "")
    if not found:
        return UPLOAD.format("a notebook" if len(names) > 1 else "this notebook")
    image = f"{COLAB}/assets/colab-badge.svg"
    return "".join(
        f"[![Open {name} in Colab]({image})]({COLAB}/github/{found[1]}/blob/main/notebooks/"
        f"{name}.ipynb)\n"
        for name in names
    )


def with_address(code: str, address: str | None) -> str:
    """A cell that says what pip installs, with the address of the repository."""
    line = f'REPOSITORY = "{address or "https://…"}"'
    return re.sub("^REPOSITORY = .*$", line, code, flags=re.MULTILINE)
