"""Worker: generation with block_recurrent, after contexts and after prompts, and reading alone."""

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from serve import arguments, serve

from block_recurrent import BlockRecurrentTransformer, Generator, ModelConfig
from block_recurrent.freed_memory import keep_freed_memory


def resident_bytes() -> int:
    """Current resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def contexts(generator: Generator, spec: dict) -> tuple[dict, dict]:
    """The state after each number of tokens, with its size and the memory of the process then.

    One row reads the text, and all rows continue from copies of its state.
    """
    rng, read, rows = np.random.default_rng(0), 0, spec["batch_size"]
    state, states, memory = generator.start(), {}, {}
    for length in spec["contexts"]:
        text = rng.integers(0, generator.config.vocab_size, length - read)
        state, read = generator.read(state, [text]), length
        copies = jax.tree.map(functools.partial(jnp.repeat, repeats=rows, axis=0), state)
        *_, (_, states[length]) = generator.stream(copies, spec["num_tokens"])
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(states[length]))
        memory[length] = {"state_bytes": size, "resident_bytes": resident_bytes()}
    return states, memory


def main() -> None:
    keep_freed_memory()  # as the commands do
    spec = arguments()
    config = ModelConfig(**spec["model"])
    generator = Generator(BlockRecurrentTransformer(config, rngs=nnx.Rngs(0)))
    count, rows = spec["num_tokens"], spec["batch_size"]
    states, memory = contexts(generator, spec)

    def after_context(length):
        *_, (_, states[length]) = generator.stream(states[length], count)

    def after_prompt(length):
        generator.generate([np.ones(length, np.int32)] * rows, count)

    def read(length):
        state = generator.read(generator.start(rows), [np.ones(length, np.int32)] * rows)
        jax.block_until_ready(state)

    measures = {f"context {n}": functools.partial(after_context, n) for n in spec["contexts"]}
    measures |= {f"prompt {n}": functools.partial(after_prompt, n) for n in spec["prompts"]}
    measures |= {f"read {n}": functools.partial(read, n) for n in spec["reads"]}
    serve(measures, memory=memory)


main()
