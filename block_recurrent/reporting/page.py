"""Self-contained HTML pages: one file with its styles, scripts and data, which loads nothing.

Line charts are drawn by uPlot, which is included in every page; see web/uplot/README.md.
"""

import base64
import hashlib
import html
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WEB = Path(__file__).parent / "web"
STYLES = (WEB / "uplot" / "uPlot.min.css", WEB / "page.css")
SCRIPTS = (WEB / "uplot" / "uPlot.iife.min.js", WEB / "page.js", WEB / "charts.js")


def html_page(
    title: str,
    *parts: str,
    styles: Sequence[Path] = (),
    scripts: Sequence[Path] = (),
    data: str = "",
    asks_server: bool = False,
) -> str:
    """A page with a heading and a switch between light and dark.

    Its content security policy allows no script but those given here, and no address.

    Args:
      title: the heading, as text.
      parts: the body, in HTML.
      styles: style sheets besides those of all pages.
      scripts: scripts besides those of all pages. They run in this order at the end of the page.
      data: text in base64 that the scripts find in the element with the id "data".
      asks_server: whether the policy lets the scripts ask the server that the page comes from.
    """
    script = _contents((*SCRIPTS, *scripts))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = string.Template((WEB / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title),
        digest=digest,
        connect="; connect-src 'self'" if asks_server else "",
        style=_contents((*STYLES, *styles)),
        body="".join(parts),
        data=data,
        script=script,
    )


def html_table(columns: Mapping[str, Sequence[Any]]) -> str:
    """A table: heading → cells."""

    def row(tag: str, cells: Sequence[Any]) -> str:
        cells = (html.escape(cell_text(cell)) for cell in cells)
        return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"

    rows = [row("td", cells) for cells in zip(*columns.values(), strict=True)]
    table = "\n".join([row("th", list(columns)), *rows])
    return f'<div class="table"><table>{table}</table></div>'


def cell_text(value: Any) -> str:
    """A value as it is shown in a table; "" for None."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.3g}"
    if value is None:
        return ""
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if is_count else str(value)


def _contents(paths: Sequence[Path]) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)
