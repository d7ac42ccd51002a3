"""Compiles JAX functions ahead of time, and measures the compilation."""

import math
import time

import jax
import jax.numpy as jnp
import numpy as np


def compiled(function, *args, **options):
    """The compiled function, and facts about it: seconds to trace and compile, bytes of memory.

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
    """Arrays of these shapes with small random numbers. (Initializers would compile a minute.)"""
    rng = np.random.default_rng(0)

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.ndim > 1:
            return jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32), leaf.dtype)
        return jnp.ones(leaf.shape, leaf.dtype)

    return jax.tree.map(fill, shapes)


def device_peak() -> int | None:
    """Peak bytes on the first device; None for a CPU, where JAX does not know it."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def num_parameters(params) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
