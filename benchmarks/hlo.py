"""Reads compiled programs: their kernels, the bytes that these move, and where they come from."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

PARTS = ("recurrence", "attention", "ffn", "loss", "optimizer")  # of the model's named scopes
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
NO_KERNEL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota"}


class Instruction(NamedTuple):
    name: str
    shape: str
    operation: str
    operands: list[str]
    rest: str  # of the line


class Kernel(NamedTuple):
    """A kernel of the program: how often it runs, the bytes it moves each time, and its source."""

    name: str
    kind: str
    shape: str
    runs: int
    bytes: int
    source: str


def size(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return sum(BYTES.get(t, 0) * math.prod(map(int, filter(None, d.split(",")))) for t, d in arrays)


def computations(hlo: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of each computation of a program, and the name of the first to run."""
    found, entry = {}, ""
    for line in hlo.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            current = found[head[2]] = []
            entry = head[2] if head[1] else entry
        elif parts := re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([a-z-]+)\((.*)", line):
            operands = re.findall(r"%([\w.-]+)", parts[4].split("), ")[0])
            current.append(Instruction(*parts.groups()[:3], operands, parts[4]))
    return found, entry


def moved(instruction: Instruction, sizes: dict[str, int], inside: list[Instruction]) -> int:
    """Bytes that a kernel reads and writes.

    A slice of an array that is taken or updated in a loop counts, not the whole array.
    """
    shapes = {inner.name: inner.shape for inner in inside}
    updates = [inner for inner in inside if inner.operation == "dynamic-update-slice"]
    if updates:
        return sum(2 * size(shapes[update.operands[1]]) for update in updates)
    if any(inner.operation == "dynamic-slice" for inner in inside):
        return 2 * size(instruction.shape)
    return size(instruction.shape) + sum(sizes.get(name, 0) for name in instruction.operands)


def kernels(hlo: str) -> list[Kernel]:
    """The kernels of a compiled program."""
    found, entry = computations(hlo)

    def walk(name: str, runs: int) -> Iterator[Kernel]:
        sizes = {instruction.name: size(instruction.shape) for instruction in found[name]}
        for instruction in found[name]:
            kind, rest = instruction.operation, instruction.rest
            if kind in NO_KERNEL:
                continue
            if kind == "while":
                count = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
                body = re.search(r"body=%?([\w.-]+)", rest)[1]
                yield from walk(body, runs * int(count[1] if count else 1))
                continue
            inside = found[re.search(r"calls=%?([\w.-]+)", rest)[1]] if kind == "fusion" else []
            if kind == "custom-call":
                kind = re.search(r'custom_call_target="([^"]*)"', rest)[1].strip("_")
            elif inside and inside[-1].operation == "transpose":
                kind = "transposing fusion"
            source = re.search(r'op_name="([^"]*)"', rest)
            bytes_ = moved(instruction, sizes, inside)
            path = source[1] if source else ""
            yield Kernel(instruction.name, kind, instruction.shape, runs, bytes_, path)

    return list(walk(entry, 1))


def part_of(path: str) -> str:
    """The part of the model that an operation belongs to."""
    return next((part for part in PARTS if f"{part}/" in path or f"{part})" in path), "rest")
