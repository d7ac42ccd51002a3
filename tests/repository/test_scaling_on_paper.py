"""What benchmarks/scaling_on_paper.py counts, against what can be said in a line."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import scaling_on_paper  # noqa: E402
from flops import matrix_flops  # noqa: E402
from scaling_on_paper import (  # noqa: E402
    CHIPS,
    Collective,
    axes_of,
    collectives_of,
    group_of,
)

pytestmark = pytest.mark.repository
H100, V5E, V5P = CHIPS

COUNT = """
import json
from scaling_on_paper import configuration, count
print(json.dumps([count(configuration("tiny", 8), mesh) for mesh in ((8, 1, 1), (1, 8, 1))]))
"""


@pytest.mark.parametrize(
    "line, group",
    [
        ("replica_groups={{0,2},{1,3}}, x", (0, 2)),
        ("replica_groups=[2,4]<=[8], x", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", (0, 4)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, x", (0, 1, 2, 3)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, x", (0, 4)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}, x", (0, 4)),
        ("source_target_pairs={{4,0},{5,2}}, x", (0, 4)),
    ],
)
def test_groups(line, group):
    assert group_of(line) == group


def test_loops_count_as_often_as_they_go_round():
    program = """\
HloModule m

%body.1 (p: f32[8]) -> f32[8] {
  %r.1 = f32[8]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
  ROOT %r.2 = f32[4,8]{1,0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add.2.clone_promoted
}

%add (p: f32[8]) -> f32[8] {
  ROOT %a = f32[8]{0} add(%p, %p)
}

ENTRY %main.1 (p: f32[8]) -> f32[8] {
  %w = f32[8]{0} while(%p), condition=%add, body=%body.1, TRIPS
  ROOT %g = (f32[2,8]{1,0}, f32[32]{0}) all-reduce(%w, %w), replica_groups={{0,1}}, to_apply=%add
}
""".replace("TRIPS", 'backend_config={"known_trip_count":{"n":"5"}}')
    assert set(collectives_of(program, (1, 2, 1), {(2, 8)})) == {
        Collective("all-reduce", 32, (1,), 5),
        Collective("all-reduce", 64, (1,), 5),  # half of float32: it was bfloat16
        Collective("reduce-scatter", 64, (1,), 1),
        Collective("all-reduce", 128, (1,), 1),
    }


def test_multiplications():
    def step(x, w):
        return jax.lax.scan(lambda x, _: (jax.checkpoint(jnp.tanh)(x @ w), None), x, length=3)[0]

    x, w = jnp.ones((4, 8)), jnp.ones((8, 8))
    forward = 3 * 2 * 4 * 8 * 8
    assert matrix_flops(jax.make_jaxpr(step)(x, w).jaxpr) == forward
    grad = jax.grad(lambda x, w: step(x, w).sum(), argnums=(0, 1))
    assert matrix_flops(jax.make_jaxpr(grad)(x, w).jaxpr) == 3 * forward


def test_axes():
    assert axes_of((0, 8), (2, 4, 2)) == (0,)
    assert axes_of((0, 1, 2, 3), (2, 2, 2)) == (1, 2)
    assert Collective("all-reduce", 1, (0,), 1).group((2, 4, 2)) == (0, 8)
    assert Collective("all-reduce", 1, (0, 1), 1).group((2, 2, 2)) == (0, 2, 4, 6)


def test_seconds():
    inside = Collective("all-reduce", 450_000_000, (0,), 2)
    assert inside.moved((8, 1, 1)) == pytest.approx(2 * 2 * 7 / 8 * 450e6)
    assert inside.seconds(H100, (8, 1, 1)) == pytest.approx(2 * 2 * 7 / 8 * 1e-3)
    across = Collective("all-reduce", 400_000_000, (0,), 1)
    expected = 2 * 7 / 8 * (400e6 / 450e9 + 400e6 / 8 / 50e9)  # in nodes, and an eighth between
    assert across.seconds(H100, (64, 1, 1)) == pytest.approx(expected)
    gather = Collective("all-gather", 200_000_000, (1,), 1)
    assert gather.seconds(V5E, (1, 8, 1)) == pytest.approx(7 / 8 * 1e-3)
    gather = Collective("all-gather", 200_000_000, (2,), 1)
    assert gather.seconds(V5P, (8, 1, 8)) == pytest.approx(7 / 8 * 1e-3)  # a third of its links


@pytest.mark.slow
def test_a_small_model_on_eight_devices():
    """Pure data parallelism sums each gradient once; fsdp gathers and scatters what is split."""
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}",
        "JAX_NUM_CPU_DEVICES": "8",
    }
    result = subprocess.run(
        [sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    data, fsdp = json.loads(result.stdout)
    size = 4 * data["parameters"]
    assert data["flops"] == fsdp["flops"]

    def exchanged(numbers: dict, kind: str) -> int:
        found = (each for each in numbers["collectives"] if each["kind"] == kind)
        return sum(each["bytes"] * each["count"] for each in found)

    assert exchanged(data, "all-reduce") == pytest.approx(size, rel=0.01)
    assert exchanged(data, "all-gather") == exchanged(data, "reduce-scatter") == 0
    for kind in ("all-gather", "reduce-scatter"):
        assert exchanged(fsdp, kind) == pytest.approx(size, rel=0.05)
    assert exchanged(fsdp, "all-reduce") < 0.1 * size


def test_meshes():
    for chips in (8, 64, 256):
        for mesh in scaling_on_paper.meshes(chips):
            assert math.prod(mesh) == chips


def test_memory():
    config = scaling_on_paper.configuration("tiny", 8)
    whole, split = (scaling_on_paper.memory(config, mesh) for mesh in ((8, 1, 1), (1, 8, 1)))
    assert whole / 8 <= split < whole / 2


def test_multiplications_of_all_parts():
    automatic = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((1,), ("data",), axis_types=automatic, devices=jax.devices()[:1])
    rows = jax.sharding.PartitionSpec("data")
    product = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=rows, out_specs=rows)
    assert matrix_flops(jax.make_jaxpr(product)(jnp.ones((4, 8))).jaxpr) == 2 * 4 * 4 * 8
