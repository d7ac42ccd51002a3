"""The compiled training step costs no more than is recorded, relative to a plain one in JAX."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

pytestmark = pytest.mark.repository
ROOT = Path(__file__).parents[2]

HLO = """\
HloModule jit_step, is_scheduled=true

%fused_computation (param_0.1: f32[4]) -> f32[4] {
  %param_0.1 = f32[4]{0} parameter(0)
  %negate.1 = f32[4]{0} negate(%param_0.1)
  ROOT %add.1 = f32[4]{0} add(%negate.1, %param_0.1)
}

%body (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg = (s32[], f32[4]{0}) parameter(0)
  %value = f32[4]{0} get-tuple-element(%arg), index=1
  ROOT %copy.1 = f32[4]{0} copy(%value)
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %fusion.1 = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused_computation
  %pair = (s32[], f32[4]{0}) tuple(%fusion.1)
  %while.1 = (s32[], f32[4]{0}) while(%pair), condition=%condition, body=%body
  ROOT %dot.1 = f32[4]{0} dot(%fusion.1, %x), lhs_contracting_dims={0}
}
"""


def run(*arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])
    }
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )


def test_the_step_costs_no_more_than_is_recorded():
    done = run(str(ROOT / "benchmarks/counted.py"))
    assert done.returncode == 0, done.stdout + done.stderr
    if done.stdout.startswith("no figures"):
        pytest.skip(done.stdout.strip())
    for line in done.stdout.splitlines():
        warnings.warn(line, stacklevel=1)


CODE = f"""
import json
import counted

recorded = {{name: 1.0 for name in counted.COUNTED + counted.TIMED}}
found = recorded | {{"kernels": 1.04, "FLOPs": 1.02, "copies": 0.5, counted.TIMED[0]: 2.0}}
print(json.dumps([*counted.grown(found, recorded), counted.operations({HLO!r})]))
"""


def test_growth_fails_and_slowness_warns():
    """In a process of its own, since the program sets flags of XLA."""
    done = run("-c", CODE)
    assert done.returncode == 0, done.stderr
    failures, warned, operations = json.loads(done.stdout)
    assert failures == ["kernels: 1.04 times the reference's, 1.0 recorded"]
    assert warned == ["compile seconds: 2.0 times the reference's, 1.0 recorded"]
    assert operations == ["copy", "fusion", "while", "dot"], "those in a fusion are one kernel"
