"""The order of the rooms, and what an import may cost."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import block_recurrent

PACKAGE = Path(block_recurrent.__file__).parent
GIN = Path(__file__).parents[2] / "gin"

# A room, which is a subpackage or a module, imports only rooms that stand before it.
ROOMS = """
    errors types fields freed_memory files console ops model interop config data parallel reporting
    generation evaluation analysis serving training comparison train evaluate analyze export
    generate prepare_data train_tokenizer compare serve __main__
""".split()

# What importing must not load, though it may be installed: seconds and gigabytes.
HEAVY = ("tensorflow", "tensorflow_datasets", "seqio", "torch", "wandb")

MEASURE_IMPORTS = f"""
import importlib.abc, json, sys, time

class Recorder(importlib.abc.MetaPathFinder):
    tried = set()
    def find_spec(self, name, path=None, target=None):
        if name in {HEAVY}:
            self.tried.add(name)

sys.meta_path.insert(0, Recorder())
start = time.process_time()
import block_recurrent
seconds = time.process_time() - start
import block_recurrent.training.trainer, block_recurrent.evaluate, block_recurrent.prepare_data
import block_recurrent.generate
from jax._src import xla_bridge
print(json.dumps([seconds, xla_bridge.backends_are_initialized(), sorted(Recorder.tried)]))
"""


def room_of(module: str) -> str | None:
    """The room of a module of the package; None for the package itself and for other packages."""
    package, _, inside = module.partition(".")
    return inside.partition(".")[0] if package == PACKAGE.name and inside else None


def rooms_imported_by(path: Path) -> set[str]:
    """Anywhere in the file, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {room_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            whole = [f"{PACKAGE.name}.{name}" for name in ROOMS]
            found |= {room_of(name if name in whole else node.module) for name in modules}
    return found - {None}


def test_imports_run_one_way_between_the_rooms():
    backward = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room != "__init__":
            allowed = {*ROOMS[: ROOMS.index(room)], room}
            backward += [f"{path}: {other}" for other in rooms_imported_by(path) - allowed]
    assert not backward


def test_every_room_says_what_it_is():
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


def test_import_is_quick_and_starts_nothing():
    """In time of the processor, the best of three, since the machine is busy with other tests."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    times = []
    while len(times) < 3 and min(times, default=3) >= 3:
        result = subprocess.run(
            [sys.executable, "-c", MEASURE_IMPORTS], env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        seconds, backends_are_initialized, tried = json.loads(result.stdout)
        assert not backends_are_initialized
        assert tried == []
        times.append(seconds)
    assert min(times) < 3


def test_gin_files_are_no_package():
    """Otherwise the folder would shadow gin-config for programs that run in a clone."""
    assert GIN.is_dir() and not list(GIN.rglob("*.py"))
