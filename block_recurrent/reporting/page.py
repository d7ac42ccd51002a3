"""Self-contained HTML pages: text, tables, and figures as images inside the page."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

STYLE = """
body { max-width: 50rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 sans-serif; }
img { max-width: 100%; } figure { margin: 2rem 0; } figcaption { color: #555; }
.table { overflow-x: auto; }
td, th { padding: 0.1rem 1rem 0.1rem 0; text-align: right; } td:first-child { text-align: left; }
"""


def html_page(title: str, *parts: str) -> str:
    """A page with a heading; the parts are HTML."""
    title = html.escape(title)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>
<body><h1>{title}</h1>
{"".join(parts)}
</body></html>
"""


def html_figure(png: bytes, caption: str) -> str:
    """An image with its caption."""
    image = base64.b64encode(png).decode()
    caption = html.escape(caption)
    return (
        f'<figure><img src="data:image/png;base64,{image}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
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
