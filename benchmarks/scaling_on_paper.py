"""Weak scaling, computed: FLOPs and communication of a step, and the least time that they take.

    python benchmarks/scaling_on_paper.py [--models paper_12l paper_24l] [--chips 8 64 256]
        [--json FILE]

Compiles the training step of each model for 8 or 16 fake CPU devices, with abstract arrays: no
array of the model is ever created. The compiled program shows which collectives run, how often,
along which axes of the mesh and on how many bytes. The program before compilation shows the number
of multiplications. With more chips along data or fsdp, and the same number of rows per chip, only
the number of participants changes. Divided by the published speeds of the hardware, these numbers
give seconds. Prints the tables of docs/scaling.md. With --json FILE, stores the counts in the file,
and reuses those that are already there.
"""

import argparse
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence, Set
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flops import PEAK, matrix_flops

from block_recurrent.config.device_options import MeshConfig
from block_recurrent.config.run_config import RunConfig, load
from block_recurrent.data.lanes import Batch
from block_recurrent.model.transformer import abstract_model
from block_recurrent.parallel.sharding import Layout, bytes_per_device, make_mesh
from block_recurrent.training.checkpoints import with_shardings
from block_recurrent.training.optimizers import make_optimizer
from block_recurrent.training.train_step import init_function, make_train_step, state_shardings

ROWS_PER_CHIP = 4  # × 4096 tokens: 131k tokens on 8 chips
VOCAB_SIZE = 32_000  # as in the paper's experiments on PG-19
UTILISATION = 0.4  # of the peak FLOP/s; an assumption
WORD = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s8": 1, "u8": 1, "pred": 1}


Mesh = tuple[int, int, int]  # sizes of data, fsdp and tensor


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of a chip and its links.

    Attributes:
      name: in the tables.
      flops: per second, of dense bfloat16 matrix products.
      link: bytes per second that it can send to other chips of its node.
      node: number of chips of a node; None: all chips are linked.
      network: bytes per second that it can send to other nodes.
      dimensions: of the torus of links. A tensor axis beside other axes gets one of them.
      memory: bytes.
    """

    name: str
    flops: float
    link: float
    node: int | None
    network: float
    dimensions: int
    memory: float


CHIPS = (
    Chip("H100 SXM", PEAK["NVIDIA H100"], 450e9, 8, 50e9, 1, 80e9),
    Chip("TPU v5e", PEAK["TPU v5 lite"], 200e9, None, 0, 2, 16e9),
    Chip("TPU v5p", PEAK["TPU v5p"], 600e9, None, 0, 3, 95e9),
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """Arrays that devices exchange in a collective operation.

    Attributes:
      kind: all-reduce, all-gather, reduce-scatter, all-to-all or collective-permute.
      bytes: of the whole arrays; before or after the exchange, a device may have a part only.
      axes: indices of the mesh axes along which devices exchange.
      count: how often per step.
    """

    kind: str
    bytes: int
    axes: tuple[int, ...]
    count: int

    def shares(self, size: int) -> float:
        """Bytes that a device sends over `bytes`, if `size` devices exchange in a ring."""
        if self.kind == "collective-permute":
            return float(size > 1)
        return (2 if self.kind == "all-reduce" else 1) * (size - 1) / size

    def group(self, mesh: Mesh) -> tuple[int, ...]:
        """The devices that exchange with the first one."""
        index = tuple(slice(None) if axis in self.axes else 0 for axis in range(len(mesh)))
        return tuple(np.arange(math.prod(mesh)).reshape(mesh)[index].ravel().tolist())

    def moved(self, mesh: Mesh) -> float:
        """Bytes that a device sends per step."""
        return self.count * self.bytes * self.shares(len(self.group(mesh)))

    def seconds(self, chip: Chip, mesh: Mesh) -> float:
        """At full bandwidth. The chips of a node share what the node sends to other nodes."""
        if chip.node is None:
            alone = mesh[2] == 1 or mesh[0] * mesh[1] == 1
            tensor = self.axes == (2,)
            dimensions = chip.dimensions if alone else 1 if tensor else chip.dimensions - 1
            return self.moved(mesh) / (chip.link * dimensions / chip.dimensions)
        group = self.group(mesh)
        nodes = len({device // chip.node for device in group})
        here = len(group) // nodes
        inside = self.shares(here) * self.bytes / chip.link
        whole = self.kind in ("all-to-all", "collective-permute")
        part = self.bytes if whole else self.bytes / here
        return self.count * (inside + self.shares(nodes) * part / chip.network)


# Collectives of the compiled program


COLLECTIVE = re.compile(
    r"= (?P<shapes>.*?) (?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all|"
    r"collective-permute)(?P<start>-start)?\("
)
CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%([\w.\-]+)")


def collectives_of(
    text: str, mesh: Mesh, split_shapes: Set[tuple[int, ...]] = frozenset()
) -> list[Collective]:
    """The collectives of a compiled program. Those in loops count once per iteration.

    Corrects two differences of the CPU compiler from those for GPUs and TPUs: it reduces bfloat16
    in float32, and it leaves an all-reduce whose result each device needs only a part of, where the
    others use a reduce-scatter.

    Args:
      text: of the program.
      mesh: that it was compiled for.
      split_shapes: shapes of parameters that are stored split, as are their gradients.
    """
    computations, entry = _computations(text)
    found = Counter()

    def visit(name: str, times: int):
        for line in computations[name]:
            if match := COLLECTIVE.search(line):
                for kind, size, group in _exchanged(match, line, split_shapes, times):
                    found[kind, size, axes_of(group, mesh)] += times
                continue
            inner = times
            if " while(" in line:
                inner *= int(re.search(r'known_trip_count":\{"n":"(\d+)"', line)[1])
            for called in CALLED.findall(line):
                visit(called, inner)

    visit(entry, 1)
    return [Collective(*key, count) for key, count in found.items()]


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation of the program, and the name of the entry computation."""
    computations, entry, name = {}, None, None
    for line in text.splitlines():
        if match := re.match(r"(ENTRY )?%([\w.\-]+) \(.*\{$", line):
            name = match[2]
            entry = name if match[1] else entry
            computations[name] = []
        elif name and line.startswith(" "):
            computations[name].append(line)
    return computations, entry


def _exchanged(match: re.Match, line: str, split_shapes: Set[tuple[int, ...]], times: int):
    """Yields kind, bytes and devices for each array in a line with a collective."""
    assert not match["start"], f"asynchronous: {line}"
    kind, group = match["kind"], group_of(line)
    halved = "_promoted" in line or kind in ("all-to-all", "collective-permute")
    for word, dimensions in re.findall(r"(\w+)\[([\d,]*)\]", match["shapes"]):
        shape = tuple(int(n) for n in dimensions.split(",") if n)
        size = math.prod(shape) * (2 if halved and word == "f32" else WORD[word])
        if kind == "all-reduce" and times == 1 and shape in split_shapes:
            yield "reduce-scatter", size, group
        else:
            yield kind, size * (len(group) if kind == "reduce-scatter" else 1), group


def axes_of(group: tuple[int, ...], mesh: Mesh) -> tuple[int, ...]:
    """The axes of the mesh along which these devices differ."""
    places = np.unravel_index(np.array(group), mesh)
    return tuple(axis for axis, place in enumerate(places) if len(set(place.tolist())) > 1)


def group_of(line: str) -> tuple[int, ...]:
    """The devices that exchange with the first one, from a line of a program."""
    if match := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", line):
        return tuple(sorted((int(match[1]), int(match[2]))))
    if match := re.search(
        r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(\[(.*?)\](?:T\((.*?)\))?\))? \{(.*?)\}",
        line,
    ):
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        used = re.findall(r"'(\w+)'", match[4])
        devices = _devices(match[2] or str(math.prod(axes.values())), match[3])
        index = tuple(slice(None) if name in used else 0 for name in axes)
        return tuple(devices.reshape(tuple(axes.values()))[index].ravel().tolist())
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[(.*?)\](?:T\((.*?)\))?", line):
        devices = _devices(match[3], match[4])
        return tuple(devices.reshape(int(match[1]), int(match[2]))[0].tolist())
    match = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    return tuple(map(int, match[1].split(",")))


def _devices(shape: str, order: str | None) -> np.ndarray:
    """All devices in that shape, with the axes then transposed to that order."""
    shape = tuple(map(int, shape.split(",")))
    devices = np.arange(math.prod(shape)).reshape(shape)
    return devices.transpose(tuple(map(int, order.split(",")))) if order else devices


# Computations of the program


def abstract_run(config: RunConfig, mesh: Mesh, devices: Sequence[jax.Device]):
    """Optimizer, layout, and the abstract state between steps, with shardings."""
    rows = config.train.batch_size
    optimizer, _ = make_optimizer(config.optimizer)
    layout = Layout(make_mesh(MeshConfig(*mesh), config.model, rows, devices))
    state = jax.eval_shape(init_function(config.model, optimizer, rows, 0))
    return optimizer, layout, with_shardings(state, state_shardings(layout, state))


def memory(config: RunConfig, mesh: Mesh) -> int:
    """Bytes per chip between steps. One real device is enough."""
    _, _, state = abstract_run(config, mesh, jax.devices()[:1] * math.prod(mesh))
    return bytes_per_device((state.params, state.optimizer, state.model))


def abstract_step(config: RunConfig, mesh: Mesh, devices: Sequence[jax.Device]):
    """Layout, training step, and its abstract arguments: state and batch."""
    optimizer, layout, state = abstract_run(config, mesh, devices)

    def rows(length, dtype):
        shape = (config.train.batch_size, length)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.rows)

    length = config.train.segment_length
    tokens, weights = rows(length, jnp.int32), rows(length, jnp.float32)
    starts = rows(length // config.model.window_length, jnp.bool_)
    batch = Batch(tokens, tokens, weights, starts)
    graphdef, _ = abstract_model(config.model)
    return layout, make_train_step(graphdef, optimizer, 1, layout), state, batch


def count(config: RunConfig, mesh: Mesh) -> dict:
    """FLOPs per device, parameters and collectives of a step, on a mesh of all devices."""
    layout, step, state, batch = abstract_step(config, mesh, jax.devices())
    flops = matrix_flops(jax.make_jaxpr(step)(state, batch).jaxpr)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, layout.replicated))
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    compiled = jitted.lower(state, batch).compile(compiler_options=quick)
    split_shapes = set()
    for leaf in jax.tree.leaves(state.params):
        if mesh[1] > 1 and "fsdp" in leaf.sharding.spec:
            ways = [mesh[2] if axis == "tensor" else 1 for axis in leaf.sharding.spec]
            split_shapes.add(tuple(n // w for n, w in zip(leaf.shape, ways, strict=True)))
    collectives = collectives_of(compiled.as_text(), mesh, split_shapes)
    return {
        "flops": flops / layout.mesh.size,
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)),
        "collectives": [dataclasses.asdict(collective) for collective in collectives],
    }


# The tables


def meshes(chips: int) -> list[Mesh]:
    """The meshes to compare for a number of chips."""
    found = [(chips, 1, 1), (1, chips, 1), (chips // 8, 8, 1), (chips // 8, 1, 8)]
    return list(dict.fromkeys(found))


def stand_in(mesh: Mesh) -> Mesh:
    """A small mesh with the same collectives."""
    data, fsdp, tensor = mesh
    if tensor > 1:
        return (2, 1, tensor)
    if data > 1 and fsdp > 1:
        return (2, 8, 1)
    return (8, 1, 1) if data > 1 else (1, 8, 1)


def counted(model: str, mesh: Mesh, known: dict) -> dict:
    """`count` in a separate process with as many devices as the mesh."""
    key = f"{model} {','.join(map(str, mesh))}"
    if key not in known:
        print(f"compiling {key}", file=sys.stderr, flush=True)
        flags = f"--xla_force_host_platform_device_count={math.prod(mesh)}"
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, __file__, "--count", *key.split()]
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        known[key] = json.loads(output.stdout)
    return known[key]


def configuration(model: str, chips: int) -> RunConfig:
    """A shipped size on a number of chips, with ROWS_PER_CHIP rows for each chip."""
    bindings = [
        f"train.batch_size = {ROWS_PER_CHIP * chips}",
        f"BlockRecurrentTransformer.vocab_size = {VOCAB_SIZE}",
    ]
    return load(["gin/brt_fixed_gate.gin", f"gin/scale/{model}.gin"], bindings)


def cells(mesh: Mesh, numbers: dict, size: int) -> list[str]:
    """One row of a table."""
    collectives = [
        Collective(**{**each, "axes": tuple(each["axes"])}) for each in numbers["collectives"]
    ]
    sent = sum(each.moved(mesh) for each in collectives)
    line = [
        str(math.prod(mesh)),
        " × ".join(map(str, mesh)),
        f"{size / 2**30:.2f}",
        f"{sent / 1e9:.2f}",
    ]
    for chip in CHIPS:
        compute = numbers["flops"] / (chip.flops * UTILISATION)
        exchange = sum(each.seconds(chip, mesh) for each in collectives)
        efficiency = compute / (compute + exchange), compute / max(compute, exchange)
        line.append(f"{compute:.3f} + {exchange:.3f} s, {efficiency[0]:.0%} to {efficiency[1]:.0%}")
    return line


def table(model: str, chips: list[int], known: dict, save: Callable[[], None]) -> str:
    """A Markdown table of all meshes for a model."""
    head = ["chips", "data × fsdp × tensor", "GiB", "GB sent", *(chip.name for chip in CHIPS)]
    lines = [head, ["---:", "---", "---:", "---:", *["---:"] * len(CHIPS)]]
    for number in chips:
        for mesh in meshes(number):
            numbers = counted(model, stand_in(mesh), known)
            save()
            lines.append(cells(mesh, numbers, memory(configuration(model, number), mesh)))
    summary = (
        f"{model}: {numbers['parameters'] / 1e6:,.0f}M parameters, "
        f"{numbers['flops'] / 1e12:,.1f} TFLOP per chip and step\n\n"
    )
    return summary + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["paper_12l", "paper_24l"])
    parser.add_argument("--chips", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--json", type=Path, help="stores the counts, and reuses them")
    parser.add_argument("--count", nargs=2, help=argparse.SUPPRESS)  # of the inner process
    arguments = parser.parse_args()
    if arguments.count:
        model, mesh = arguments.count
        mesh = tuple(map(int, mesh.split(",")))
        print(json.dumps(count(configuration(model, math.prod(mesh)), mesh)))
        return
    known = {}
    if arguments.json and arguments.json.exists():
        known = json.loads(arguments.json.read_text())

    def save():
        if arguments.json:
            arguments.json.write_text(json.dumps(known) + "\n")

    for model in arguments.models:
        print(table(model, arguments.chips, known, save), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
