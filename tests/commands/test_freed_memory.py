"""Freed memory stays with the process."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from block_recurrent import freed_memory

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
GLIBC = platform.libc_ver()[0] == "glibc"
PAGE_FAULTS = """
import json, resource
import block_recurrent
import jax

def products(x):  # of 36 MiB each
    return jax.lax.fori_loop(0, 2, lambda _, y: y + x @ x.T, 0 * (x @ x.T)).max()

step = jax.jit(products)
x = jax.numpy.ones((3072, 64))
counts = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps(counts))
"""


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="sets glibc's parameters")
def test_a_program_that_imports_the_package_maps_the_memory_of_a_step_once():
    def page_faults(**variables):
        command, environment = [sys.executable, "-c", PAGE_FAULTS], ENVIRONMENT | variables
        output = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert output.returncode == 0, output.stderr
        return min(json.loads(output.stdout))  # if others compute, up to half of them map again

    assert page_faults() < 256
    assert page_faults(BLOCK_RECURRENT_KEEP_MEMORY="0") > 8192  # in pages of 4 KiB


@pytest.mark.parametrize(
    "platforms, installed, kept",
    [
        ("cpu", {"jax_plugins"}, True),
        (None, set(), True),
        (None, {"jax_plugins"}, False),
        (None, {"libtpu"}, False),
        ("cuda,cpu", set(), False),
    ],
)
def test_importing_keeps_memory_only_where_jax_computes_on_a_cpu(
    monkeypatch, platforms, installed, kept
):
    called = []
    monkeypatch.setattr(freed_memory, "keep_freed_memory", lambda: called.append(True))
    monkeypatch.setattr(freed_memory.jax, "config", SimpleNamespace(jax_platforms=platforms))
    monkeypatch.setattr(
        freed_memory.importlib.util, "find_spec", lambda name: name in installed or None
    )
    freed_memory.keep_freed_memory_on_cpu()
    assert bool(called) == kept


def test_nothing_changes_with_another_c_library(monkeypatch):
    """As on macOS and Windows, where there is no mallopt."""
    monkeypatch.delenv(freed_memory.SWITCH, raising=False)
    monkeypatch.setattr(freed_memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(freed_memory.jax, "config", None)
    monkeypatch.setattr(freed_memory, "ctypes", None)
    freed_memory.keep_freed_memory()
