"""Compiles a training step and a forward pass ahead of time, and times the compilation."""

import math
import time

import jax
import jax.numpy as jnp
import numpy as np


def compiled(function, *args, **options):
    """The compiled function, and what its compilation took: seconds and bytes.

    `options` are those of `jax.jit`.
    """
    start = time.perf_counter()
    lowered = jax.jit(function, **options).lower(*args)
    traced, cpu_start = time.perf_counter(), time.process_time()
    result = lowered.compile()
    memory = result.memory_analysis()
    facts = {
        "trace_seconds": traced - start,
        "compile_seconds": time.perf_counter() - traced,
        "compile_cpu_seconds": time.process_time() - cpu_start,
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
    }
    return result, facts


def filled(shapes):
    """Arrays of these shapes with small random numbers, for initializers compile for a minute."""
    rng = np.random.default_rng(0)

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.ndim > 1:
            return jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32), leaf.dtype)
        return jnp.ones(leaf.shape, leaf.dtype)

    return jax.tree.map(fill, shapes)


def device_peak() -> int | None:
    """Most bytes that the first device has held; None for a CPU, of which JAX does not know."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def num_parameters(params) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
