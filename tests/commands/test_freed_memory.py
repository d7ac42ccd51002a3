"""Freed memory stays with the process."""

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
PAGE_FAULTS = """
import json, resource, sys
import jax
from block_recurrent.console.cli import run_main

def main():
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

run_main(main) if sys.argv[1] == "program" else main()
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets glibc's parameters")
def test_a_program_maps_the_memory_of_a_step_once():
    def page_faults(kind):
        command = [sys.executable, "-c", PAGE_FAULTS, kind]
        output = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
        assert output.returncode == 0, output.stderr
        return statistics.median(json.loads(output.stdout))  # of several steps

    assert page_faults("library") > 8192  # without keep_freed_memory, in pages of 4 KiB
    assert page_faults("program") < 256
