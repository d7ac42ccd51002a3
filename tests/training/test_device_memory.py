"""Memory of arrays and of the compiled step, and the messages if it is not sufficient."""

import dataclasses
import re
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest

from block_recurrent.config.device_options import MeshConfig
from block_recurrent.config.train_options import OptimizerConfig
from block_recurrent.data.lanes import Batch
from block_recurrent.model.transformer import abstract_model
from block_recurrent.parallel.sharding import Layout, make_mesh
from block_recurrent.training import device_memory
from block_recurrent.training.device_memory import (
    compiler_options,
    explain_exhaustion,
    format_bytes,
    how_to_fit,
    memory_limit,
    step_memory,
    step_memory_line,
)
from block_recurrent.training.optimizers import make_optimizer
from block_recurrent.training.train_step import init_function, make_train_step
from corpus import tiny_run
from tiny import TINY

MIB = 2**20


def compiled(function, **options):
    """Compiles a function for an array of 1 MiB."""
    x = jax.ShapeDtypeStruct((MIB // 4,), jnp.float32)
    return jax.jit(function, **options).lower(x).compile()


def between(x):
    """Computes two intermediate arrays that fusion cannot remove."""
    return jnp.sort(x) + jnp.sort(-x)


def test_step_memory_counts_donated_arrays_once():
    assert step_memory(compiled(lambda x: 2 * x)) == pytest.approx(2 * MIB, rel=1e-3)
    assert step_memory(compiled(lambda x: 2 * x, donate_argnums=0)) == pytest.approx(MIB, rel=1e-3)
    assert 3 * MIB <= step_memory(compiled(between)) <= 6 * MIB


def test_step_memory_line_has_both_numbers_and_warns(monkeypatch):
    device, step = jax.local_devices()[0], compiled(between)
    line = step_memory_line(step, device, tiny_run("texts"), 1)
    assert re.fullmatch(
        r"memory \S+ MiB per device in a step, activations included, of .* GiB", line
    )
    monkeypatch.setattr(device_memory, "memory_limit", lambda device: 2 * MIB)
    line, warning = step_memory_line(step, device, tiny_run("texts"), 1).splitlines()
    assert line.endswith("of 2.00 MiB") and "train.batch_size" in warning and "remat" in warning
    assert "more than the device has: set a larger train.microbatches or" in warning
    monkeypatch.setattr(device_memory, "memory_limit", lambda device: None)
    line = step_memory_line(step, device, tiny_run("texts"), 1)
    assert line.endswith("activations included")


def test_memory_of_devices():
    gpu = Mock(jax.Device, platform="gpu")
    for stats, memory in (({"bytes_limit": 5, "bytes_in_use": 1}, 5), ({}, None), (None, None)):
        gpu.memory_stats = lambda stats=stats: stats
        assert memory_limit(gpu) == memory
    machine = memory_limit(jax.local_devices()[0]) * jax.local_device_count()
    with open("/proc/meminfo") as file:
        kilobytes = int(file.readline().split()[1])
    assert machine == pytest.approx(kilobytes * 1024, rel=0.01)


@pytest.mark.parametrize("number, text", [(3 * MIB // 2, "1.50 MiB"), (2**40, "1,024.00 GiB")])
def test_format_bytes(number, text):
    assert format_bytes(number) == text


def test_an_error_of_exhausted_memory_becomes_one_line():
    used = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.5G of 15.48G hbm."
    error = jax.errors.JaxRuntimeError(f"{used}\n\nTotal hbm usage >= 21G")
    message = str(explain_exhaustion(error, tiny_run("texts"), 1))
    assert message.startswith("a step needs more memory than a device has (JaxRuntimeError: RESOU")
    assert "Used 20.5G of 15.48G" in message and "\n" not in message
    assert explain_exhaustion(ValueError(f"{used}, of a server"), tiny_run("texts"), 1) is None
    other = jax.errors.JaxRuntimeError("INTERNAL: a compiler bug")
    assert explain_exhaustion(other, tiny_run("texts"), 1) is None


def test_the_advice_names_only_what_is_left_to_change():
    config = tiny_run("texts")
    assert how_to_fit(config, row_ways=1) == (
        "set a larger train.microbatches or BlockRecurrentTransformer.remat = 'layer' or mesh.fsdp "
        "or mesh.sequence to more devices, and run the same command again to continue; or set a "
        "smaller train.batch_size with train.lanes = 4 or a smaller train.segment_length, and add "
        "--allow_changes"
    )
    least = tiny_run("texts", batch_size=1, segment_length=8)
    least = dataclasses.replace(least, model=dataclasses.replace(least.model, remat="layer"))
    more_devices = "set mesh.fsdp to more devices, and run the same command again to continue"
    assert how_to_fit(least, row_ways=1) == more_devices
    least = dataclasses.replace(least, train=dataclasses.replace(least.train, batch_size=4))
    assert how_to_fit(least, row_ways=4) == more_devices, "each device has a single row"
    assert how_to_fit(least, row_ways=2).startswith("set a larger train.microbatches or mesh.fsdp")
    feedback = dataclasses.replace(config, model=dataclasses.replace(config.model, feedback=True))
    assert "mesh.fsdp to more" in how_to_fit(feedback, row_ways=1), "it needs whole segments"


@pytest.mark.slow
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_remat_saves_memory_in_a_whole_step(clip_norm):
    """Even though the updates need the norm of all gradients first."""

    def temporaries(remat):
        config = dataclasses.replace(TINY, num_layers=4, recurrent_layers=(), remat=remat)
        graphdef, _ = abstract_model(config)
        layout = Layout(make_mesh(MeshConfig(), config, 2, jax.devices()[:1]))
        optimizer, _ = make_optimizer(OptimizerConfig("adamw", clip_norm=clip_norm))
        state = jax.eval_shape(init_function(config, optimizer, 2, seed=0))
        tokens = jax.ShapeDtypeStruct((2, 512), jnp.int32)
        weights = jax.ShapeDtypeStruct(tokens.shape, jnp.float32)
        starts = jax.ShapeDtypeStruct((2, 512 // config.window_length), bool)
        step = make_train_step(graphdef, optimizer, 10, layout)
        jitted = jax.jit(step, donate_argnums=0, compiler_options=compiler_options(remat, "cpu"))
        lowered = jitted.lower(state, Batch(tokens, tokens, weights, starts))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporaries("layer") < 0.7 * temporaries("none")
