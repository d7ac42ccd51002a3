"""The documentation: examples run, commands parse, tables are whole, the site builds."""

import argparse
import functools
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import block_recurrent
from block_recurrent.config.run_config import CLASSES, load, load_prepare

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("api/*.md"))]
TEXTS = [ROOT / "README.md", ROOT / "launch/README.md", ROOT / "benchmarks/README.md", *PAGES]
pytestmark = pytest.mark.repository
OUTSIDE = {"tfds", "curl", "tensorboard", "sbatch", "docker", "kubectl", "pytest", "mkdocs"}
OUTSIDE |= {"env", "find", "pip-audit"}

ENVIRONMENT = ("python3 -m venv .venv", ". .venv/bin/activate")

sys.path.insert(0, str(DOCS / "hooks"))
gin_parameters = importlib.import_module("gin_parameters")


def commands() -> list[tuple[str, str]]:
    """(page, command) of all shell blocks, and of commands with arguments inside the text."""
    found = []
    for page in TEXTS:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = "".join(blocks).replace("\\\n", " ").splitlines()
        lines += re.findall(r"`(python (?:-m block_recurrent|benchmarks/)[^`…]* --[^`…]*)`", text)
        name = page.relative_to(ROOT).as_posix()
        found += [(name, part.strip()) for line in lines for part in line.split("&&")]
    return sorted(set(found))


class Parsed(Exception):
    """Thrown in place of going on with a program, with the arguments that it has parsed."""


def parse(monkeypatch, module: str, arguments: list[str]) -> argparse.Namespace:
    """What a program makes of its arguments; it ends there."""
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser, args=None, namespace=None):
        raise Parsed(parse_args(parser, args, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(Parsed) as caught:
        importlib.import_module(module).main()
    return caught.value.args[0]


def check_gin(monkeypatch, module: str, arguments: list[str]):
    """The arguments are the program's, its gin files are there and its bindings suit."""
    parsed = parse(monkeypatch, module, arguments)
    if getattr(parsed, "gin_file", None):
        read = load_prepare if module.endswith(".prepare_data") else load
        read(parsed.gin_file, parsed.gin_bindings)


def test_commands(monkeypatch):
    monkeypatch.chdir(ROOT)
    failures = []
    for page, command in commands():
        with monkeypatch.context() as patch:
            try:
                check(command, patch)
            except (Exception, SystemExit, pytest.fail.Exception) as error:
                failures.append(f"{page}: {command}: {error!r}")
    assert not failures


def check(command: str, monkeypatch):
    words = shlex.split(command, comments=True)
    script = next((word for word in words if word.startswith("launch/")), None)
    if words[:2] == ["python", "-m"]:
        check_gin(monkeypatch, words[2], words[3:])
    elif words[0] == "python":
        path = ROOT / words[1]
        monkeypatch.syspath_prepend(str(path.parent))
        parse(monkeypatch, path.stem, words[2:])
    elif words[0] == "pip":
        check_pip(words[1:])
    elif script and words[0] in (script, "sbatch"):
        assert os.access(ROOT / script, os.R_OK)
        own = words[words.index("--" if "--" in words else script) + 1 :]
        check_gin(monkeypatch, "block_recurrent.train", own)
    else:
        assert words[0] in OUTSIDE or command in ENVIRONMENT


def check_pip(words: list[str]):
    """An extra that is asked for is one of the package's."""
    assert words[0] == "install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words:
        if found := re.fullmatch(r"\.\[(\w+)\]", word):
            assert found[1] in project["optional-dependencies"]


def examples(page: str) -> list[str]:
    """The Python blocks of a page at the top of docs/."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@functools.cache
def run(page: str, index: int) -> dict:
    """The names that an example has defined when it is through."""
    names = {"__name__": page}
    exec(compile(examples(page)[index], f"example {index} of {page}", "exec"), names)
    return names


EXAMPLES = [
    (page.name, index)
    for page in sorted(DOCS.glob("*.md"))
    if page.name != "data.md"  # a Task over a dataset that nobody has; test_prepare.py has its like
    for index in range(len(examples(page.name)))
]


@pytest.mark.parametrize("page, index", EXAMPLES)
def test_example(page, index):
    assert run(page, index)


@pytest.mark.parametrize("index", [0, 2])
def test_modules_in_a_model_of_ones_own(index):
    names = run("modules.md", index)
    assert names["y"].shape == (2, 80, 64)


def test_a_cell_in_a_model_of_ones_own():
    names = run("modules.md", 1)
    assert names["states"].shape == (2, 8, 64)
    other = names["summary"](2 + np.random.default_rng(0).normal(size=(2, 160, 64)))
    assert not np.allclose(other, names["states"])


def test_a_loop_of_ones_own_learns():
    losses = run("modules.md", 3)["losses"]
    assert losses[2] < losses[1] < losses[0]


def test_streamed_tokens_are_those_that_are_generated_at_once():
    names = run("generation.md", 0)
    assert [list(row) for row in names["rows"]] == names["written"]
    assert all(names["written"])


def test_migration_from_meliad_carries_its_state():
    assert run("migration.md", 0)["logits"].shape == (2, 64, 260)


def test_migration_from_meliad_converts_weights():
    recorded = np.load(sorted((ROOT / "tests/golden").glob("*.npz"))[0])
    config = json.loads(str(recorded["config"]))
    params = {name: recorded[name] for name in recorded.files if name.startswith("params/")}
    model = run("migration.md", 1)["convert"](config, params)
    embedding = model.embedding[...]
    np.testing.assert_array_equal(embedding, recorded["params/embed/embedding"])


@pytest.mark.parametrize("section", CLASSES)
def test_every_parameter_is_described(section):
    rows = gin_parameters.parameters_of(section)
    assert not [row.name for row in rows if not row.description]
    numbers = [row for row in rows if re.search("integer|number", row.kind)]
    without = {f"{section}.{row.name}" for row in numbers if not row.unit}
    assert without <= {"train.seed"}


def test_every_parameter_is_on_the_page():
    page = gin_parameters.parameters_page()
    for section, cls in CLASSES.items():
        assert f"\n## {section}\n" in "\n" + page
        for name in cls.__dataclass_fields__:
            assert f"\n| `{name}` | " in page


def test_every_module_is_in_the_api_reference():
    package = Path(block_recurrent.__file__).parent
    modules = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in package.rglob("*.py")
    }
    shown = re.findall(r"^::: (\S+)$", "\n".join(p.read_text("utf-8") for p in PAGES), re.MULTILINE)
    assert len(shown) == len(set(shown))
    assert set(shown) == modules - {"block_recurrent"}


def test_every_public_name_is_in_the_api_reference():
    table = (DOCS / "api/index.md").read_text(encoding="utf-8")
    names = re.findall(r"\[`(\w+)`\]\[block_recurrent\.", table)
    assert sorted(names) == sorted(block_recurrent.__all__)


def test_the_site_builds(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    html = (tmp_path / "paper/index.html").read_text(encoding="utf-8")
    assert "block_recurrent/model/gates.py, line" in html and "<!-- code" not in html
    assert "held_out_per_mille" in (tmp_path / "parameters/index.html").read_text(encoding="utf-8")
    assert "recurrent_layers" in (tmp_path / "gin_files/index.html").read_text(encoding="utf-8")
    assert "architecture.svg" in (tmp_path / "index.html").read_text(encoding="utf-8")
