"""The README's examples run as they stand."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_examples():
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_example(index):
    names = {}
    exec(compile(EXAMPLES[index], f"README example {index}", "exec"), names)
    result = names.get("y", names.get("logits"))
    assert result is not None and result.shape[1] == 4 * 32
