"""What an installation contains, from the source distribution to the wheel."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import block_recurrent

pytestmark = pytest.mark.repository

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "block_recurrent", "gin")


def build(kind: str, source: Path, output: Path) -> Path:
    """Builds an "sdist" or a "wheel" as pip does, with the setuptools that is installed."""
    code = f"from setuptools import build_meta as b; print(b.build_{kind}({str(output)!r}))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return output / result.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The content of a wheel that is built from the source distribution."""
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    source.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name, **({"ignore": ignored} if copy != shutil.copy else {}))
    with tarfile.open(build("sdist", source, folder)) as archive:
        archive.extractall(folder / "sdist", filter="data")
    (unpacked,) = (folder / "sdist").iterdir()
    with zipfile.ZipFile(build("wheel", unpacked, folder)) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)) for path in found if "__pycache__" not in path.parts}


def test_an_installation_contains_every_file(installed):
    expected = files(ROOT / "block_recurrent")
    assert {"py.typed", "pretrained/stdlib.safetensors"} <= expected
    expected |= {f"gin/{name}" for name in files(ROOT / "gin")}
    assert files(installed / "block_recurrent") == expected
    (about,) = installed.glob("*.dist-info")
    assert "LICENSE" in {Path(name).name for name in files(about)}
    assert {path.name for path in installed.iterdir()} == {"block_recurrent", about.name}


def test_its_metadata(installed):
    (path,) = installed.glob("*.dist-info/METADATA")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert {"Name: block_recurrent", "License-Expression: Apache-2.0"} <= set(lines)
    assert f"Version: {block_recurrent.__version__}" in lines
    assert "Requires-Dist: jax<0.13,>=0.10" in lines
    extras = {line.partition(": ")[2] for line in lines if line.startswith("Provides-Extra: ")}
    assert {"cuda", "cuda12", "data", "docs", "gcs", "notebooks", "test", "tpu"} <= extras


def test_it_finds_its_gin_files_and_its_model(installed, tmp_path):
    code = (
        "import block_recurrent\n"
        "from block_recurrent.config.run_config import load\n"
        "from block_recurrent.generate import PRETRAINED\n"
        f"assert block_recurrent.__file__.startswith({str(installed)!r})\n"
        "load(['gin/brt_fixed_gate.gin', 'gin/scale/tiny.gin'], [])\n"
        "block_recurrent.load_model(PRETRAINED)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(installed)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
