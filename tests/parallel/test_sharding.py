"""Eight devices compute the same as one, and exchange only what the layout requires."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from block_recurrent.config.device_options import MeshConfig
from block_recurrent.config.run_config import RunConfig
from block_recurrent.config.train_options import TrainConfig
from block_recurrent.errors import UserError
from block_recurrent.parallel.sharding import Layout, make_mesh, split_heads
from block_recurrent.training.device_memory import layout_table
from block_recurrent.training.train_step import TrainState
from close import assert_close
from tiny import TERMS, TINY

DATA, FSDP, MIXED = "8,1,1", "1,8,1", "2,2,2"
HERE = Path(__file__).parents[1]


def train(*variants: str, meshes: tuple[str, ...]) -> dict:
    """The results that tests/eight_devices.py prints."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "JAX_NUM_CPU_DEVICES": "8"}
    result = subprocess.run(
        [sys.executable, "eight_devices.py", *variants, "--", *meshes],
        env=environment,
        capture_output=True,
        text=True,
        cwd=HERE,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def assert_equal_to_one_device(results: dict):
    for meshes in results.values():
        alone = meshes.pop("alone")
        assert alone[-1] < alone[0] - 0.1, "the loss must fall in 20 steps"
        for found in meshes.values():
            losses = np.array(found["losses"]), np.array(alone)
            assert_close(*losses, terms=TERMS * len(alone))
            # Another order of sums can turn a hidden unit that is all but 0 on or off, and its
            # parameters then part by a fraction of a step (0.03); the losses do not notice.
            assert found["difference"] < 5e-3


def gathered(collectives: dict) -> list[tuple[int, ...]]:
    """Shapes of the results of all-gathers."""
    names = (name for name in collectives if name.startswith("all-gather"))
    return [tuple(map(int, re.search(r"\[([\d,]*)\]", name)[1].split(","))) for name in names]


def elements(collectives: dict, kind: str) -> int:
    """The number of elements that all collectives of one kind move."""
    shapes = [
        re.findall(r"\[([\d,]*)\]", name) * count
        for name, count in collectives.items()
        if name.startswith(kind)
    ]
    return sum(
        int(np.prod([int(n) for n in shape.split(",") if n])) for each in shapes for shape in each
    )


@pytest.mark.slow
def test_data_fsdp_and_all_axes():
    results = train("fixed_skip", meshes=(DATA, FSDP, MIXED))
    data, fsdp = (results["fixed_skip"][mesh]["collectives"] for mesh in (DATA, FSDP))
    assert_equal_to_one_device(results)
    assert {name.split()[0] for name in data} == {"all-reduce"}, "only gradients move"
    # Only matrices and vectors are gathered, which are parameters; activations have more axes.
    assert gathered(fsdp) and all(len(shape) <= 2 for shape in gathered(fsdp))
    assert {name.split()[0] for name in fsdp} <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert elements(fsdp, "all-reduce") < 1.5 * elements(data, "all-reduce")


@pytest.mark.long  # the first model always
@pytest.mark.slow
@pytest.mark.parametrize("variant", ["feedback", "lstm_dual", "transformer_xl"])
def test_every_model_along_all_axes(variant):
    assert_equal_to_one_device(train(variant, meshes=(MIXED,)))


@pytest.mark.long
@pytest.mark.slow
def test_lanes_that_take_turns_stay_on_the_devices_of_their_rows():
    results = train("turns", meshes=(DATA, MIXED))
    data = results["turns"][DATA]["collectives"]
    assert_equal_to_one_device(results)
    assert {name.split()[0] for name in data} == {"all-reduce"}, "only gradients move"


@pytest.mark.long  # those of the first model always, below
@pytest.mark.slow
@pytest.mark.parametrize("variant", ["lstm_dual_parts", "modern_parts"])
def test_segments_in_parts(variant):
    assert_equal_to_one_device(train(variant, meshes=("1,2,1,4",)))


@pytest.mark.slow
def test_only_windows_and_states_move_between_parts():
    mesh = "2,1,1,4"
    results = train("fixed_skip_parts", meshes=(mesh,))
    moved = results["fixed_skip_parts"][mesh]["collectives"]
    assert_equal_to_one_device(results)
    assert {name.split()[0] for name in moved} == {"all-reduce", "collective-permute"}
    rows, window, states = 8, TINY.window_length, TINY.num_states
    permuted = {
        name.split()[1].partition("{")[0]: n for name, n in moved.items() if "permute" in name
    }
    assert permuted == {
        f"f32[{rows},4,{window},8]": 4 * TINY.num_layers,  # keys, values and their gradients
        f"f32[{rows},{states},{TINY.embedding_size}]": 2,  # in the loop over the parts
    }


def test_what_cannot_be_split_into_parts_is_refused():
    def config(model=TINY, segment_length=64, **mesh):
        train = TrainConfig(segment_length=segment_length)
        return RunConfig(model, train, mesh=MeshConfig(**{"sequence": 4} | mesh))

    config()
    feedback, full = ({"feedback": True}, {"attention": "full", "recurrent_layers": ()})
    for values, message in (
        ({"segment_length": 48}, "train.segment_length = 48 .* use a multiple of 32"),
        ({"tensor": 2}, "mesh.sequence = 4 does not work with mesh.tensor = 2"),
        ({"model": dataclasses.replace(TINY, **feedback)}, "feedback = True, which needs whole"),
        ({"model": dataclasses.replace(TINY, **full)}, "attention = 'full', which needs whole"),
        ({"model": dataclasses.replace(TINY, layer="lstm", recurrent_layers=())}, "layer = 'lstm'"),
    ):
        with pytest.raises(UserError, match=message):
            config(**values)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [FSDP, *(pytest.param(mesh, marks=pytest.mark.long) for mesh in (DATA, MIXED))]
)
def test_parts_of_a_batch_consist_of_rows_of_every_device(mesh):
    results = train("microbatches", meshes=(mesh,))
    collectives = results["microbatches"][mesh]["collectives"]
    assert_equal_to_one_device(results)
    if mesh == DATA:
        assert {name.split()[0] for name in collectives} == {"all-reduce"}, "only gradients move"
    if mesh != MIXED:
        assert not any("in a loop" in name for name in collectives), "they move once per step"


@pytest.mark.long
@pytest.mark.slow
def test_the_fused_kernels_run_on_the_rows_of_a_device():
    assert_equal_to_one_device(train("fused", meshes=("4,2,1",)))


# Rules, and sizes that do not fit


def mesh(*shape, model=TINY, batch=8):
    return make_mesh(MeshConfig(*shape), model, batch, jax.devices()[:1] * 8)


@pytest.mark.parametrize(
    "shape, message",
    [
        (
            (3, 1, 1),
            "mesh.data × mesh.fsdp × mesh.sequence × mesh.tensor = 3 × 1 × 1 × 1, but there are 8 "
            "devices: make the product 8",
        ),
        (
            (1, 2, 4),
            "BlockRecurrentTransformer.num_heads = 2 does not divide over mesh.tensor = 4: on 8 "
            "devices, set mesh.tensor to one of 1, 2",
        ),
        (
            (8, 1, 1),
            "train.batch_size = 12 does not divide over mesh.data × mesh.fsdp = 8: use a multiple "
            "of 8",
        ),
    ],
)
def test_uneven_splits_are_refused(shape, message):
    with pytest.raises(UserError) as error:
        mesh(*shape, batch=12 if shape == (8, 1, 1) else 8)
    assert str(error.value) == message


@pytest.mark.parametrize("microbatches", [3, 8])
def test_microbatches_divide_the_rows_of_each_device(microbatches):
    devices = jax.devices()[:1] * 4
    with pytest.raises(UserError) as error:
        make_mesh(MeshConfig(2, 2, 1), TINY, 16, devices, microbatches)
    assert str(error.value) == (
        f"train.microbatches = {microbatches} does not divide the 4 rows of each device "
        "(train.batch_size = 16 over mesh.data × mesh.fsdp = 4): set it to one of 1, 2, 4, or "
        f"train.batch_size to a multiple of {4 * microbatches}"
    )


@pytest.mark.parametrize("rule", ["kernel", "(: fsdp", "kernel: rows", "kernel: fsdp, fsdp"])
def test_invalid_rules_are_refused(rule):
    with pytest.raises(UserError, match="mesh.rules contains"):
        MeshConfig(rules=(rule,))


def test_split_heads_use_xla():
    auto, pallas = (dataclasses.replace(TINY, attention_kernel=name) for name in ("auto", "pallas"))
    assert split_heads(MeshConfig(fsdp=8), auto) == auto
    assert split_heads(MeshConfig(fsdp=8), pallas) == pallas
    assert split_heads(MeshConfig(tensor=2), auto).attention_kernel == "xla"
    with pytest.raises(UserError) as error:
        split_heads(MeshConfig(tensor=2), pallas)
    assert str(error.value) == (
        "attention_kernel = 'pallas' does not split over mesh.tensor = 2: set "
        "BlockRecurrentTransformer.attention_kernel = 'auto', or mesh.tensor = 1"
    )


@pytest.fixture
def layout():
    """A layout for 2 × 2 × 2 devices. They are all the same device, which is enough for shapes."""
    devices = np.array(jax.devices()[:1] * 8).reshape(2, 2, 2)
    rules = "a/kernel: fsdp, tensor", "kernel: tensor, fsdp", "bias: fsdp"
    return Layout(Mesh(devices, ("data", "fsdp", "tensor")), rules)


@pytest.mark.parametrize(
    "path, shape, expected",
    [
        ("a/kernel", (4, 6), ("fsdp", "tensor")),
        ("a/kernel", (3, 6), (None, "tensor")),  # only the axis that does not divide is whole
        ("a/kernel", (4, 5), ("fsdp", None)),
        ("a/kernel", (3, 5), ()),
        ("a/kernel", (6,), ()),  # a factor of Adafactor has another number of axes
        ("b/kernel", (3, 6), (None, "fsdp")),
        ("a/bias", (4,), ("fsdp",)),
        ("a/scale", (4,), ()),  # no rule
    ],
)
def test_the_first_rule_that_matches_counts_axis_by_axis(path, shape, expected, layout):
    outer, inner = path.split("/")
    tree = {outer: {inner: jax.ShapeDtypeStruct(shape, jnp.float32)}}
    assert tuple(layout.parameters(tree)[outer][inner].spec) == expected


def test_the_layout_table_shows_each_axis(layout):
    shapes = {"both": (4, 6), "one": (3, 6), "none": (3, 5)}
    tree = {
        "a": {f"kernel_{name}": jax.ShapeDtypeStruct(n, jnp.float32) for name, n in shapes.items()}
    }
    params = jax.tree.map(
        lambda leaf, sharding: leaf.update(sharding=sharding), tree, layout.parameters(tree)
    )
    parts = {"params": params, "optimizer": {}, "model": ()}
    table = layout_table(TrainState(**dict.fromkeys(TrainState._fields) | parts))
    rows = [re.split("  +", line) for line in table.splitlines() if "kernel" in line]
    assert {row[0]: row[4] for row in rows} == {
        "params/a/kernel_both": "fsdp, tensor",
        "params/a/kernel_one": "-, tensor",
        "params/a/kernel_none": "whole",
    }
