"""The README's examples run as they stand."""

import functools
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci/run").read_text(encoding="utf-8")
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize(
    "end",
    [
        "pip install -e . && python -m block_recurrent.train --gin_file=gin/brt_fixed_gate.gin",
        "pip install -e '.[test]' && pytest",
    ],
)
def test_the_two_commands_are_what_is_run_on_every_change(end):
    """`.ci/run` finds them in README.md, whose lines a narrow page can show whole."""
    function = re.search(r"^readme_command\(\) {.*?^}", CI, re.DOTALL | re.MULTILINE)[0]
    script = f"set -eu; {function}; readme_command "
    run = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    found = run(["bash", "-c", script + shlex.quote(end)])
    assert found.stdout == f"python3 -m venv .venv && . .venv/bin/activate && {end}\n"
    assert f'$(readme_command "{end}")' in CI
    missing = run(["bash", "-c", script + "'pip install nothing'"])
    assert missing.returncode == 1 and "README.md has 0 commands" in missing.stderr
    block = next(block for block in SHELL if end[-9:] in block)
    assert max(map(len, block.splitlines())) <= 72


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
