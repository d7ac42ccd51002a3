"""Documentation: examples run, commands parse, generated parts are current, the site builds."""

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
import treescope
from flax import nnx

import block_recurrent
from block_recurrent.config.run_config import CLASSES, load, load_prepare

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("api/*.md"))]
TEXTS = [ROOT / "README.md", ROOT / "launch/README.md", ROOT / "benchmarks/README.md", *PAGES]
pytestmark = pytest.mark.repository
OUTSIDE = {"tfds", "curl", "tensorboard", "sbatch", "docker", "kubectl", "pytest", "mkdocs"}
OUTSIDE |= {"env", "find", "git", "hf", "lm_eval", "openssl", "pip-audit", "ruff"}

ENVIRONMENT = ("python3 -m venv .venv", ". .venv/bin/activate")

sys.path.insert(0, str(DOCS / "hooks"))
gin_parameters = importlib.import_module("gin_parameters")
write_pages = importlib.import_module("write_pages")


def written_text(page: Path) -> str:
    """The text of a page without its generated parts."""
    return write_pages.GENERATED.sub("", page.read_text(encoding="utf-8"))


def commands() -> list[tuple[str, str]]:
    """(page, command) for every command in a shell block or, with arguments, in running text."""
    found = []
    for page in TEXTS:
        text = written_text(page)
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = "".join(blocks).replace("\\\n", " ").splitlines()
        lines += re.findall(r"`(python (?:-m block_recurrent|benchmarks/)[^`…]* --[^`…]*)`", text)
        lines = [line.replace(r"\|", "|") for line in lines]  # escaped in tables
        name = page.relative_to(ROOT).as_posix()
        found += [(name, part.strip()) for line in lines for part in line.split("&&")]
    return sorted(set(found))


class Parsed(Exception):
    """Raised with the parsed arguments, to end a program before it starts its work."""


def parse(monkeypatch, module: str, arguments: list[str]) -> argparse.Namespace:
    """Parse `arguments` with the program's own parser, and run nothing else of it."""
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser, args=None, namespace=None):
        raise Parsed(parse_args(parser, args, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(Parsed) as caught:
        importlib.import_module(module).main()
    return caught.value.args[0]


def check_gin(monkeypatch, module: str, arguments: list[str]):
    """Check that the program accepts the arguments, the gin files and the bindings."""
    parsed = parse(monkeypatch, module, arguments)
    if getattr(parsed, "gin_file", None):
        read = load_prepare if module.endswith((".prepare_data", ".train_tokenizer")) else load
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


def test_the_sweep(monkeypatch):
    """The loop runs the training command with each configuration, in a folder of its own."""
    (loop,) = re.findall(r"^```bash\n(.*?)^```", written_text(DOCS / "sweeps.md"), re.DOTALL | re.M)
    script = "python() { printf '%q ' python \"$@\"; echo; }\n" + loop
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len({line.partition("--workdir=")[2] for line in lines}) == 9
    for line in lines:
        with monkeypatch.context() as patch:
            check(line, patch)


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
    """An extra that is asked for is one of the package's, and a file of requirements is there."""
    assert words[0] in ("install", "download")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words:
        assert not word.startswith("--requirement=") or (ROOT / word.split("=")[1]).is_file()
        if found := re.fullmatch(r"\.\[(\w+)\]", word):
            assert found[1] in project["optional-dependencies"]


def examples(page: str) -> list[str]:
    """The Python examples of a page in docs/."""
    text = written_text(DOCS / page)
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@functools.cache
def run(page: str, index: int) -> dict:
    """Run an example and return the names that it defines."""
    names = {"__name__": page}
    exec(compile(examples(page)[index], f"example {index} of {page}", "exec"), names)
    return names


EXAMPLES = [
    (page.name, index)
    for page in sorted(DOCS.glob("*.md"))
    if page.name != "data.md"  # a Task over a made-up dataset; test_prepare.py runs a similar one
    for index in range(len(examples(page.name)))
]


@pytest.mark.parametrize("page, index", EXAMPLES)
def test_example(page, index):
    assert run(page, index)


@pytest.mark.parametrize("index", [0, 2])
def test_modules_in_your_own_model(index):
    names = run("modules.md", index)
    assert names["y"].shape == (2, 80, 64)


def test_a_cell_in_your_own_model():
    names = run("modules.md", 1)
    assert names["states"].shape == (2, 8, 64)
    other = names["summary"](2 + np.random.default_rng(0).normal(size=(2, 160, 64)))
    assert not np.allclose(other, names["states"])


def test_your_own_loop_learns():
    names = run("modules.md", 3)
    losses = names["losses"]
    assert losses[2] < losses[1] < losses[0]
    initial = names["params"]["layers"][1]["cell"]["initial"]
    assert not np.array_equal(initial, names["model"].layers[1].cell.initial[...]), "it is trained"


def test_flaxs_own_transforms():
    names = run("modules.md", 4)
    losses = names["losses"]
    assert losses[2] < losses[1] < losses[0]
    assert names["logits"].shape == (3, 2, 64, 260) and names["logits"].dtype == np.float32
    assert not np.allclose(names["logits"][0], names["logits"][1])


def test_a_model_is_displayed_with_its_shapes(capsys):
    cell = run("modules.md", 4)["model"].layers[1].cell
    nnx.display(cell)  # in a terminal
    shown = capsys.readouterr().out
    assert re.search(r"initial=Param\([^)]*\)\n\s*value=Array\(shape=\(8, 32\)", shown)
    shown = treescope.render_to_text(cell)  # in a notebook
    assert re.search(r"initial=Param\(value=<jax.Array float32\(8, 32\)", shown)


def test_streamed_tokens_equal_the_tokens_generated_at_once():
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


def test_generated_parts_are_up_to_date():
    assert not [*write_pages.out_of_date()], "run python docs/hooks/write_pages.py"


def test_a_code_host_shows_what_is_generated():
    for page in ("paper.md", "parameters.md", "gin_files.md", "baseline.md"):
        parts = list(write_pages.GENERATED.finditer((DOCS / page).read_text(encoding="utf-8")))
        assert parts and all("```" in part[4] or "|---|" in part[4] for part in parts), page


def test_source_links_lead_to_the_lines_of_the_definition():
    text = write_pages.code("block_recurrent.model.gates.FixedGate")
    path, first, last = re.search(r"\]\(\.\./(\S+)#L(\d+)-L(\d+)\)", text).groups()
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()[int(first) - 1 : int(last)]
    assert lines[0].startswith("class FixedGate(")
    assert lines[-1].strip() == text.splitlines()[-2].strip() != ""


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
    cells = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
    names = re.findall(r"`(\w+)`", "".join(cells))
    assert sorted(names) == sorted(block_recurrent.__all__)


def test_the_site_builds(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    html = (tmp_path / "paper/index.html").read_text(encoding="utf-8")
    assert 'href="../api/model/#block_recurrent.model.gates.FixedGate"' in html
    assert "held_out_per_mille" in (tmp_path / "parameters/index.html").read_text(encoding="utf-8")
    assert "recurrent_layers" in (tmp_path / "gin_files/index.html").read_text(encoding="utf-8")
    assert "architecture.svg" in (tmp_path / "index.html").read_text(encoding="utf-8")
