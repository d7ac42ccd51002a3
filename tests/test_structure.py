"""The house rules that a program can check."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import block_recurrent

PACKAGE = Path(block_recurrent.__file__).parent
GIN = Path(__file__).parent.parent / "gin"

# Each module imports only modules before it: whoever reads in this order meets nothing unexplained.
READING_ORDER = """
    errors run_folder whole_file checksums mirror types
    linear positions dropout dot_product norms window
    kernels kernels.band kernels.launch kernels.forward kernels.backward kernels.window_attention
    kernels.default_tiles fused_attention
    attention full_attention gates feed_forward recurrent_cell
    model_config layers lstm model interop field_values model_file token_step decoding sampling
    writing generation saved_state block_recurrent inspection
    data.vocabularies data.text_stream tracing data.text_counts data.documents data.text_files
    data.embedded data.compressors data.store_format data.store_writer data.store data.mixture
    data.recall data
    data.lanes data.prefetch
    losses optimizers distributed sharding train_config watching train_step layout_table
    step_memory loss_profile evaluation memory_worth
    gin_files gin_names data.prepare_config configs workdir workdir_lock checkpoints
    initial_model text_samples wandb_log metrics_log metrics_server nonfinite loss_spikes preemption
    trainer trained
    plots report_figures report analysis_figures analysis_report
    freed_memory cli train evaluate analyze export generate
    data.pieces data.file_groups data.quiet_tensorflow data.folder_source data.seqio_vocabularies
    data.tasks data.shard data.write_shard data.prepare_plan data.shard_workers
    data.partial_folder data.prepare_progress data.prepare prepare_data
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
import block_recurrent.trainer, block_recurrent.evaluate, block_recurrent.prepare_data
import block_recurrent.generate
from jax._src import xla_bridge
print(json.dumps([seconds, xla_bridge.backends_are_initialized(), sorted(Recorder.tried)]))
"""


def name_of(path: Path) -> str:
    """As in READING_ORDER: without the package's own name, save for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or PACKAGE.name


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path: Path) -> set[str]:
    """The package's modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [n if n.partition(".")[2] in MODULES else node.module for n in inside]
        else:
            continue
        found |= {name for name in names if name.partition(".")[0] == PACKAGE.name}
    return {name.partition(".")[2] or name for name in found}


def test_reading_order_has_every_module():
    assert sorted(READING_ORDER) == sorted(MODULES)


@pytest.mark.parametrize("module", READING_ORDER)
def test_a_module_imports_only_earlier_ones(module):
    later = READING_ORDER[READING_ORDER.index(module) :]
    assert not imports_of(MODULES[module]) & set(later)


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


def test_the_architecture_is_short():
    names = ("attention", "gates", "recurrent_cell", "layers", "model")
    lines = {name: len(MODULES[name].read_text().splitlines()) for name in names}
    assert sum(lines.values()) <= 680, lines


def test_no_file_for_odds_and_ends():
    assert not {path.stem for path in MODULES.values()} & {"utils", "util", "common", "base"}


def test_gin_files_are_no_package():
    """Or the folder would hide gin-config from whatever runs in a clone."""
    assert GIN.is_dir() and not list(GIN.rglob("*.py"))
