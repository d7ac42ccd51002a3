"""Tables of what gin files set."""

from pathlib import Path

from block_recurrent.config.changes import MAY_CHANGE
from block_recurrent.config.run_config import all_values, load

SECTIONS = ("BlockRecurrentTransformer.", "train.", "optimizer.")
# Options that are left out: they differ between runs, or are not used by these models.
LEFT_OUT = ("train.seed", "train.initial_model", "train.average_decay")


def settings_table(files: list[str]) -> str:
    """The options that decide what is trained, and their values in each file.

    With several files, only the options that are not the same in all of them.
    """
    values = [all_values(load([file], [])) for file in files]
    rows = []
    for name in values[0]:
        each = [one[name] for one in values]
        differs = any(value != each[0] for value in each)
        if decides(name) and (differs or len(files) == 1):
            rows.append([f"`{name}`", *(f"`{value!r}`" for value in each)])
    heads = [f"`{Path(file).stem}`" if len(files) > 1 else "value" for file in files]
    lines = [f"| {' | '.join(line)} |" for line in (["option", *heads], *rows)]
    lines.insert(1, "|---" * (1 + len(files)) + "|")
    return "\n".join(lines) + "\n"


def decides(name: str) -> bool:
    """Whether an option decides what is trained: its length, or what a run may not change later."""
    fixed = MAY_CHANGE.get(name) is None or name == "train.num_steps"
    return fixed and name.startswith(SECTIONS) and name not in LEFT_OUT
