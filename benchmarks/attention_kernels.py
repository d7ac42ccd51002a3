"""Attention of tokens and of states on a GPU: XLA, cuDNN and the fused kernels::

    python benchmarks/attention_kernels.py                  # sizes of the paper; forward, gradient
    python benchmarks/attention_kernels.py --sweep          # fused kernels, other tile sizes
    python benchmarks/attention_kernels.py --interpret      # on a CPU, tiny: checks agreement

Contenders take turns, call by call. A row's ratio is the median of its ratios to XLA's call in the
same round. TFLOP/s count what the band needs, with W keys per query, and not what an implementation
computes beyond it: 4·W·K FLOPs per query and head forward, and 3.5 times as much with the gradient.
The last group has neither band nor bias: W states attend to the 2W keys of a block, as in the
recurrence.

All contenders take queries, keys and values as the projections return them, ``[B, T, H, K]``, and
return the output in that layout. XLA's path transposes heads and length, which counts as its time.
So does the normalization of queries and keys, which the fused kernels do on their own.

cuDNN does not support the gradient of a learned bias at batch sizes above 1 (jax-ml/jax issues
27184 and 30593), so it is compared only with rotary positions. It is given the segment as one
sequence, after the carried block, with a causal window of W. Its keys are shifted by one, since a
query does not see itself. It does not support document starts.
"""

import argparse
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from report import write

from block_recurrent.ops import attention
from block_recurrent.ops.blocks import from_blocks_of_heads, to_blocks_of_heads
from block_recurrent.ops.dot_product import attend
from block_recurrent.ops.kernels.band import Band, Rectangle, Tiles
from block_recurrent.ops.kernels.default_tiles import choose_bands, choose_rectangles
from block_recurrent.ops.kernels.window_attention import (
    Tilings,
    unmasked_attention,
    window_attention,
)
from block_recurrent.ops.normalize import l2_normalize, scaled_l2_normalize
from block_recurrent.ops.positions import rotate
from block_recurrent.types import KV

SWEEP = [
    Tiles(queries, keys, warps, stages)
    for queries, keys, warps, stages in itertools.product((64, 128), (32, 64, 128), (4, 8), (2, 3))
    if keys <= queries
]


def main():
    args = parse()
    if jax.default_backend() != "gpu" and not args.interpret:
        print("error: this benchmark needs a GPU; --interpret checks agreement on a CPU")
        sys.exit(2)
    if args.interpret:
        args.blocks, args.batch, args.heads, args.window, args.head_size = 2, 2, 2, 32, 16
        args.rounds = args.repeats = 1
    device = jax.devices()[0].device_kind
    print(f"{device}, jax {jax.__version__}; {args.blocks} blocks × {args.batch} rows × ", end="")
    print(f"{args.heads} heads, W {args.window}, K {args.head_size}, {args.dtype}")
    rows = []
    for name, group in groups(args).items():
        for gradient in (False, True):
            rows += compare(name, group, gradient, args)
            write("attention_kernels", rows, args.json, arguments=vars(args))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--head_size", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each contender")
    parser.add_argument("--repeats", type=int, default=10, help="calls timed together in a turn")
    parser.add_argument("--sweep", action="store_true", help="fused kernels, other tile sizes")
    parser.add_argument("--interpret", action="store_true", help="on a CPU, tiny")
    parser.add_argument("--json", help="also write the results to this file")
    return parser.parse_args()


def make_inputs(args):
    """Queries, their scale, tokens, the carried block, bias and dropout, as in the model."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape, np.float32), args.dtype)

    shape = (args.batch, args.blocks * args.window, args.heads, args.head_size)
    block = (args.batch, args.window, args.heads, args.head_size)
    queries, tokens = normal(*shape), KV(normal(*shape), normal(*shape))
    scale = jnp.full(args.heads, 4.0)
    carried = KV(l2_normalize(normal(*block)), normal(*block))
    bias = jnp.asarray(rng.standard_normal((args.heads, args.window)), jnp.float32)
    mask = rng.random((args.heads, args.window, 2 * args.window)) < 0.95
    return queries, scale, tokens, carried, bias, jnp.asarray(mask, args.dtype) / 0.95


class Group(NamedTuple):
    """Functions to compare.

    Attributes:
      contenders: functions by name.
      inputs: their arguments.
      differentiated: indices of the arguments that the model differentiates by.
      pairs: number of visible pairs of query and key, per head and row of the batch.
    """

    contenders: dict[str, Callable]
    inputs: tuple
    differentiated: tuple[int, ...]
    pairs: int


def groups(args) -> dict[str, Group]:
    """The groups by name."""
    window, swept = args.window, SWEEP if args.sweep else []
    fused = {"fused": choose_bands(window, args.dtype)}
    fused |= {name_of(tiles): Tilings(*[Band(window, tiles, "gpu")] * 3) for tiles in swept}
    inputs = make_inputs(args)

    def group(with_bias, with_dropout):
        def call(function, *inputs):
            *vectors, bias, dropout = inputs
            bias = bias if with_bias else None
            return function(*vectors, bias, dropout if with_dropout else None)

        functions = {"XLA": xla_attention}
        for name, bands in fused.items():
            functions[name] = functools.partial(fused_attention, bands=bands)
        if not (with_bias or with_dropout or args.interpret):
            functions["cuDNN"] = cudnn_attention
        functions = {name: functools.partial(call, each) for name, each in functions.items()}
        return Group(functions, inputs, (0, 1, 2, 4), args.blocks * window * window)

    return {
        "T5 bias, dropout": group(True, True),
        "T5 bias": group(True, False),
        "rotary": group(False, False),
        "states": unmasked_group(inputs[0][:, :window], *inputs[1:3], swept, args),
    }


def unmasked_group(states, scale, tokens, swept, args) -> Group:
    """W states as queries, and the 2W keys of a single block, of unit length."""
    window = args.window
    keys, values = (x[:, : 2 * window] for x in tokens)
    keys = l2_normalize(keys)
    fused = {"fused": choose_rectangles(window, 2 * window, args.dtype)}
    for tiles in swept:
        fused[name_of(tiles)] = Tilings(*[Rectangle(window, tiles, "gpu", keys=2 * window)] * 3)

    def xla(queries, scale, *keys_values):
        inputs = scaled_l2_normalize(queries, scale), *keys_values
        return attend(*(x.swapaxes(1, 2) for x in inputs)).swapaxes(1, 2)

    def by_kernels(queries, scale, keys, values, tilings):
        return unmasked_attention(queries, scale, KV(keys[None], values[None]), tilings)

    def cudnn(queries, scale, *keys_values):
        queries = scaled_l2_normalize(queries, scale)
        return jax.nn.dot_product_attention(
            queries, *keys_values, scale=1.0, implementation="cudnn"
        )

    contenders = {"XLA": xla}
    for name, tilings in fused.items():
        contenders[name] = functools.partial(by_kernels, tilings=tilings)
    if not args.interpret:
        contenders["cuDNN"] = cudnn
    return Group(contenders, (states, scale, keys, values), (0, 1, 2, 3), 2 * window * window)


def name_of(tiles: Tiles) -> str:
    return f"{tiles.queries}×{tiles.keys} w{tiles.warps} s{tiles.stages}"


def normalized(queries, scale, tokens):
    """Queries of length `scale`, and tokens with unit keys."""
    return scaled_l2_normalize(queries, scale), KV(l2_normalize(tokens.keys), tokens.values)


def xla_attention(queries, scale, tokens, carried, bias, dropout):
    """What `attention_kernel = 'xla'` computes."""
    window = carried.keys.shape[1]
    queries, tokens = normalized(queries, scale, tokens)
    carried = jax.tree.map(lambda block: block.swapaxes(1, 2), carried)
    queries, tokens = jax.tree.map(lambda x: to_blocks_of_heads(x, window), (queries, tokens))
    return from_blocks_of_heads(
        attention.window_attention(queries, tokens, carried, None, bias, dropout)
    )


def fused_attention(queries, scale, tokens, carried, bias, dropout, bands):
    """What `attention_kernel = 'pallas'` computes."""
    return window_attention(queries, scale, tokens, carried, None, bias, dropout, bands)


def cudnn_attention(queries, scale, tokens, carried, bias, dropout):
    """A causal window over the whole segment; see the top of the file."""
    window = carried.keys.shape[1]
    queries, tokens = normalized(queries, scale, tokens)
    keys, values = (
        jnp.concatenate([before, own], 1) for before, own in zip(carried, tokens, strict=True)
    )
    queries = jnp.concatenate([jnp.zeros_like(queries[:, :window]), queries], 1)
    positions = np.arange(queries.shape[1])[:, None]
    queries, keys = rotate(queries, positions), rotate(keys, positions)
    keys, values = (jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0))) for x in (keys, values))
    y = jax.nn.dot_product_attention(
        queries,
        keys,
        values,
        scale=1.0,
        is_causal=True,
        local_window_size=(window - 1, 0),
        implementation="cudnn",
    )
    return y[:, window:]


def compare(title: str, group: Group, gradient: bool, args) -> list[dict]:
    """Times the contenders of a group, prints a table, and checks that their results agree."""

    def timed(function):
        if not gradient:
            return jax.jit(function)

        def loss(*inputs):
            return jnp.mean(jnp.square(function(*inputs).astype(jnp.float32)))

        return jax.jit(jax.grad(loss, argnums=group.differentiated))

    compiled, outputs = {}, {}
    for name, function in group.contenders.items():
        try:
            compiled[name] = timed(function)
            outputs[name] = jax.block_until_ready(compiled[name](*group.inputs))
        except Exception as error:  # for example, tiles too large for this GPU's shared memory
            if name in ("XLA", "fused"):
                raise
            del compiled[name]
            print(f"{name}: fails on this device ({type(error).__name__})")
    times = {name: [] for name in compiled}
    for _ in range(args.rounds):
        for name, function in compiled.items():
            start = time.perf_counter()
            for _ in range(args.repeats):
                result = function(*group.inputs)
            jax.block_until_ready(result)
            times[name].append((time.perf_counter() - start) / args.repeats)
    flops = 4 * group.pairs * args.head_size * args.heads * args.batch * (3.5 if gradient else 1)
    print(f"\n{title}, {'forward and gradient' if gradient else 'forward'}")
    print(f"{'':20}{'ms':>9}{'of XLA':>9}{'TFLOP/s':>9}{'error':>10}")
    rows = []
    for name in compiled:
        ms = 1e3 * statistics.median(times[name])
        ratio = statistics.median(map(lambda a, b: a / b, times[name], times["XLA"]))
        error = relative_error(outputs[name], outputs["XLA"])
        print(f"{name:20}{ms:9.3f}{ratio:9.2f}{flops / ms / 1e9:9.1f}{error:10.1e}")
        rows.append(
            dict(group=title, gradient=gradient, name=name, ms=ms, of_xla=ratio, error=error)
        )
        if error > (1e-4 if args.dtype == "float32" else 5e-2):
            print(f"error: {name} disagrees with XLA")
            sys.exit(1)
    return rows


def relative_error(found, expected) -> float:
    """The largest relative error of any output, in the Euclidean norm."""

    def relative(a, b):
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        return float(jnp.linalg.norm((a - b).ravel()) / (jnp.linalg.norm(b.ravel()) + 1e-30))

    return max(jax.tree.leaves(jax.tree.map(relative, found, expected)))


if __name__ == "__main__":
    main()
