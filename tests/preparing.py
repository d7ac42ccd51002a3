"""Commands of prepare_data, and the contents of the stores that they write."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import block_recurrent
from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.loaded_text import load_text
from block_recurrent.data.store import open_stores

TESTS = Path(__file__).parent
PACKAGE = Path(block_recurrent.__file__).parent


def write_texts(folder: Path, files: dict[str, bytes]):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)


def load_text_files(path: Path | str, *arguments, **options) -> dict[str, ByteDocuments]:
    """The documents of a folder in each split, with these options of the data."""
    return load_text(DataConfig("text_files", str(path), *arguments, **options))


def bind(**values) -> list[str]:
    """``data__path="texts"`` as --gin_bindings of data.path."""
    pairs = [(name.replace("__", "."), value) for name, value in values.items()]
    return [f"--gin_bindings={name} = {value!r}" for name, value in pairs]


def data(name: str) -> str:
    return f"--gin_file=gin/data/{name}.gin"


def mine(task: str, **values) -> list[str]:
    return bind(prepare__module="my_tasks", prepare__task=task, **values)


ONE_PROCESS = bind(prepare__num_processes=1)
TEXTS = [data("text_files"), *bind(data__path="texts")]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, with the content of the files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def peak_megabytes(*arguments: str) -> float:
    """The peak memory of a process that runs prepare_data."""
    measure = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    measure += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    result = subprocess.run(
        [sys.executable, "-c", measure, *command(*arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return int(result.stdout.split()[-1]) / 1024


def documents_of(store: Path | str, split: str) -> dict[str, list[int]]:
    """The tokens of each document, by name, without the end token."""
    ((documents, _),) = open_stores(store)[split]
    tokens = {
        name: documents.tokens(i, 0, int(length)).tolist()
        for i, (name, length) in enumerate(zip(documents.names, documents.lengths, strict=True))
    }
    assert all(ids[-1] == 1 for ids in tokens.values())
    return {name: ids[:-1] for name, ids in tokens.items()}


def texts_of(store: Path | str, split: str) -> dict[str, bytes]:
    """The texts of a store of bytes, by name."""
    tokens = documents_of(store, split)
    return {
        name: (np.array(ids, int) - 3).astype(np.uint8).tobytes() for name, ids in tokens.items()
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "block_recurrent.prepare_data", *arguments]


def environment() -> dict[str, str]:
    """Environment variables with which the package and the tests' Tasks are found in any folder."""
    return os.environ | {"PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{TESTS}"}
