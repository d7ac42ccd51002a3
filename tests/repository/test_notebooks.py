"""The notebooks run from the first cell to the last, at toy size."""

import importlib
import re
import shutil
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from bucket_server import serve_bucket

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.repository
sys.path.insert(0, str(ROOT / "docs/hooks"))
colab = importlib.import_module("colab")
write_pages = importlib.import_module("write_pages")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# In the place of PG19, and under its name.
TOY_STORE = """\
%%bash
set -e
mkdir text
for book in $(seq 20); do seq 900 >text/$book.txt; done
python -m block_recurrent.prepare_data --gin_file=gin/data/text_files.gin \\
    --gin_bindings="data.path = 'text'" --gin_bindings="data.held_out_per_mille = 200" \\
    --output=stores/pg19_tokens
"""

# What the test puts in the place of a notebook's cells of parameters, one after the other.
TOY = {
    "quickstart": [
        "SOURCE, EXTRA = '', ''",
        "GIN_FILES, WORKDIR = ['gin/brt_fixed_gate.gin', 'gin/scale/tiny.gin'], 'run'\n"
        "BINDINGS = ['train.num_steps = 4', 'train.log_every_steps = 2']",
        "PROMPT, NUM_TOKENS = 'def ', 20",
    ],
    "reproduce_table_1": [
        "SOURCE, EXTRA = '', ''",
        "ROW, WORKDIR = 'rec_fixed_skip', 'gs://bucket/run'\n"
        "GIN_FILES = [f'gin/table1/{ROW}.gin', 'gin/scale/tiny.gin']\n"
        "BINDINGS = ['train.num_steps = 4', 'train.log_every_steps = 2']\n"
        "BINDINGS += ['BlockRecurrentTransformer.vocab_size = 260']",
        TOY_STORE,
    ],
    "use_the_modules": [
        "SOURCE, EXTRA = '', ''",
        "NUM_STEPS, BATCH_SIZE, LENGTH, VOCAB_SIZE = 3, 2, 32, 8",
    ],
}


def tags(cell):
    return cell.metadata.get("tags", [])


def test_every_notebook_has_a_toy_size():
    assert [path.stem for path in NOTEBOOKS] == sorted(TOY)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_first_cells_install_what_exists(path, tmp_path, monkeypatch):
    source, install = (cell.source for cell in nbformat.read(path, 4).cells[1:3])
    assert install == '%pip install --quiet "{SOURCE}{EXTRA}"'
    extras = re.search(r'EXTRA = "\[(.+)\]"', source)[1].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras) <= project["optional-dependencies"].keys()
    for place, expected in (
        (path.parent, ".."),
        (tmp_path, f"git+{colab.repository() or 'https://…'}"),
    ):
        monkeypatch.chdir(place)
        exec(source, names := {})
        assert names["SOURCE"] == expected


@pytest.mark.parametrize("address", [None, "https://example.org/me/mine", "https://github.com/me"])
def test_without_an_address_that_colab_opens(address):
    for pattern, what in ("*", "a notebook"), ("quickstart", "this notebook"):
        text = colab.open_on_colab(pattern, address)
        assert text.startswith(f"To run {what} on [Colab]") and "set\n`REPOSITORY`" in text


@pytest.mark.parametrize("end", ["", "/", ".git"])
def test_badges_take_the_address_from_the_metadata(end, tmp_path, monkeypatch):
    address = f"https://github.com/me/my.project{end}"
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    written = text.replace("[project.urls]\n", f'[project.urls]\nRepository = "{address}"\n')
    (tmp_path / "pyproject.toml").write_text(written, encoding="utf-8")
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    monkeypatch.setattr(colab, "ROOT", tmp_path)
    assert colab.repository() == address
    first, source = nbformat.reads(
        write_pages.notebook((ROOT / "notebooks/quickstart.ipynb").read_text("utf-8")), 4
    ).cells[:2]
    page = "https://colab.research.google.com/github/me/my.project/blob/main/notebooks/"
    assert f"]({page}quickstart.ipynb)\n" in first.source and "use_the" not in first.source
    assert f'REPOSITORY = "{address}"' in source.source
    every = write_pages.content("colab", "*")
    assert re.findall(r"\(([^()]+\.ipynb)\)", every) == [f"{page}{path.name}" for path in NOTEBOOKS]


@pytest.fixture
def bucket(monkeypatch):
    """`gs://bucket`, also to a notebook's kernel."""
    with serve_bucket() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path, bucket):
    notebook = nbformat.read(path, 4)
    notebook.cells = [cell for cell in notebook.cells if "install" not in tags(cell)]
    toys = iter(TOY[path.stem])
    for cell in notebook.cells:
        if "parameters" in tags(cell):
            cell.source = next(toys)
    assert next(toys, None) is None
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 1
