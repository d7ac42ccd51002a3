"""The clock that stops while JAX compiles."""

import jax
import jax.numpy as jnp

from block_recurrent.console.working_time import compile_time, working_seconds


def test_compilation_does_not_count():
    """Real functions are compiled, which takes far longer than calling them."""
    began, before = working_seconds(), compile_time().seconds
    for factor in range(1, 4):
        jax.jit(lambda x, factor=factor: jnp.sort(x * factor) @ x)(jnp.ones(10)).block_until_ready()
    compiled = compile_time().seconds - before
    assert compiled > 0.01
    assert 0 <= working_seconds() - began < compiled
