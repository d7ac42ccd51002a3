"""The README's examples run as they stand."""

import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_examples():
    assert len(EXAMPLES) >= 2


@pytest.mark.repository
@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_example(index):
    names = {}
    exec(compile(EXAMPLES[index], f"README example {index}", "exec"), names)
    if "rows" in names:
        assert all(1 <= len(row) <= 50 for row in names["rows"])
        assert np.all(np.asarray(names["state"].length) == [1 + 37 + 128, 1 + 200 + 128])
        return
    result = names.get("y", names.get("logits"))
    assert result is not None and result.shape[1] == 4 * 32
