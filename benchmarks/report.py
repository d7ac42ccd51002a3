"""The output of a benchmark: the machine, a table, and a JSON file."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path

from block_recurrent.files.writing import atomic_write


def machine() -> dict:
    """The processor, its cores, the accelerators, and the versions of the libraries."""
    import jax

    names = (
        [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith(("model name", "Model"))
        ]
        if Path("/proc/cpuinfo").exists()
        else []
    )
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")},
    }


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table; the columns are the keys of the first row."""
    columns = list(rows[0])
    cells = [columns] + [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in cells
    ]
    lines.insert(1, "-|-".join("-" * w for w in widths))
    return "\n".join(f"| {line} |" if i != 1 else f"|-{line}-|" for i, line in enumerate(lines))


def _cell(value) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def report(name: str, rows: list[dict], path: str | None, **details) -> None:
    """Prints the machine and the table. Writes both, and `details`, as JSON to `path`."""
    print("\n" + ", ".join(f"{key}: {value}" for key, value in machine().items()) + "\n")
    print(table(rows))
    write(name, rows, path, **details)


def write(name: str, rows: list[dict], path: str | None, **details) -> None:
    """Writes the machine, the rows and `details` as JSON to `path`, if there is one.

    The file is whole at any moment.
    """
    if path:
        content = {"benchmark": name, "machine": machine(), "rows": rows, **details}
        with atomic_write(Path(path)) as file:
            file.write(f"{json.dumps(content, indent=1)}\n".encode())
