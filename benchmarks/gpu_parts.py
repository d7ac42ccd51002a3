"""The parts of benchmarks/gpu_session.py: which programs it runs, at which sizes, for how long."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
NO_LUCIDRAINS = "this Python has no block-recurrent-transformer-pytorch: --lucidrains_python=PYTHON"


class Command(NamedTuple):
    """A program to run.

    Attributes:
      name: of its files, unique in the session.
      arguments: after the interpreter.
      result: the JSON file that it writes, if it writes one.
      environment: variables to set.
      left_out: why it does not run; empty if it does.
    """

    name: str
    arguments: list[str] = []
    result: Path | None = None
    environment: dict[str, str] = {}
    left_out: str = ""


class Part(NamedTuple):
    """Something to find out.

    Attributes:
      name: for --parts.
      title: in the tables.
      seconds: limit of all commands together.
      commands: in this order.
    """

    name: str
    title: str
    seconds: float
    commands: list[Command]


class Sizes(NamedTuple):
    """What the programs run.

    Attributes:
      model: fields of ModelConfig.
      segment_length: tokens.
      batch: rows of a step whose batch is not what is measured.
      largest: batch that is not exceeded in the search for the largest.
      dtype: of the computation, except where another is measured.
      kernels: arguments of attention_kernels.py.
      decoded: batches of generated text.
      read: tokens of prompts whose reading is measured.
      prompts: tokens of prompts for the comparison with the other implementation's generation.
      rounds: measurements of each.
      text: gin files and bindings of both trainings on text.
      text_layers: layers of the model with memory; the other one has one more.
    """

    model: dict
    segment_length: int
    batch: int
    largest: int
    dtype: str
    kernels: list[str]
    decoded: tuple[int, ...]
    read: int
    prompts: str
    rounds: int
    text: list[str]
    text_layers: int


FULL = Sizes(
    model={
        "num_layers": 12,
        "embedding_size": 1024,
        "num_heads": 8,
        "head_size": 128,
        "mlp_dim": 4096,
        "window_length": 512,
        "num_states": 512,
    },
    segment_length=4096,
    batch=8,
    largest=1024,
    dtype="bfloat16",
    kernels=[],
    decoded=(1, 8, 64, 512),
    read=4096,
    prompts="1,512",
    rounds=7,
    text=[
        "--gin_file=gin/data/text_files.gin",
        "--gin_file=gin/scale/gpu.gin",
        "--gin_bindings=SEGMENT_LENGTH = 1024",
        "--gin_bindings=BATCH_SIZE = 32",
        "--gin_bindings=LANES = 128",
    ],
    text_layers=12,
)

TOY = Sizes(
    model={
        "num_layers": 2,
        "embedding_size": 32,
        "num_heads": 2,
        "head_size": 16,
        "mlp_dim": 64,
        "window_length": 16,
        "num_states": 16,
        "recurrent_layers": [-1],
    },
    segment_length=64,
    batch=2,
    largest=8,
    dtype="float32",
    kernels=["--interpret"],
    decoded=(1, 2),
    read=32,
    prompts="1",
    rounds=2,
    text=[
        "--gin_file=gin/data/text_files.gin",
        "--gin_file=gin/scale/tiny.gin",
        "--gin_bindings=train.num_steps = 4",
    ],
    text_layers=2,
)


class Inputs(NamedTuple):
    """What a session compares with, as far as it is there.

    Attributes:
      against: a checkout of ours.
      meliad: a checkout of google-research/meliad.
      lucidrains_python: an interpreter that has lucidrains' package.
      corpus: a file or folder of documents.
    """

    against: Path | None
    meliad: Path | None
    lucidrains_python: str | None
    corpus: Path | None


def parts(sizes: Sizes, inputs: Inputs, folder: Path) -> list[Part]:
    """All parts, what is worth most first."""
    step = [f"--model={json.dumps(sizes.model)}", f"--segment_length={sizes.segment_length}"]
    rounds, batch = f"--rounds={sizes.rounds}", f"--batch_size={sizes.batch}"
    train = [*step, batch, rounds, "--measures=train"]
    low = f"--dtypes={sizes.dtype}"
    against = [f"--against={inputs.against}"]
    no_other = "" if inputs.against else "no other checkout: --against=FOLDER"
    deeper = {"recurrent_layers": [], "num_layers": sizes.model["num_layers"] + 1}
    longer = {"recurrent_layers": [], "window_length": 4 * sizes.model["window_length"]}
    windows = ["--variant", "one more layer, no memory", json.dumps(deeper)]
    windows += ["--variant", "window of 4 W, no memory", json.dumps(longer)]
    remat = ["--variant", "remat_attention", '{"remat": "attention"}']
    remat += ["--variant", "remat_layer", '{"remat": "layer"}']
    profiled = sizes.model | {"dtype": sizes.dtype}
    profile = [f"--model={json.dumps(profiled)}", f"--segment_length={sizes.segment_length}", batch]

    def flag(text):
        return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {text}"}

    plain = flag("--xla_gpu_enable_command_buffer=")  # so that kernels keep their names
    flushed = flag("--xla_gpu_ftz=true")  # denormal numbers are 0: fewer instructions

    def program(name, script, *arguments, left_out="", **environment):
        result = folder / f"{name}.json"
        words = [str(HERE / script), *arguments, f"--json={result}"]
        return Command(name, words, result, environment, left_out)

    return [
        Part(
            "peers",
            "Training, each implementation alone, by batch",
            240,
            peers([*step, low, rounds, f"--largest={sizes.largest}"], inputs, program),
        ),
        Part(
            "step",
            "The training step, in a plain loop, and that of another checkout",
            100,
            [
                program("plain_loop", "step_time.py", *train, low, "--plain_loop"),
                program("step", "step_time.py", *train, low, *against, left_out=no_other),
            ],
        ),
        Part(
            "kernels",
            "Attention kernels, forward and with gradient",
            90,
            [
                program("kernels", "attention_kernels.py", rounds, *sizes.kernels),
                program("kernels_ftz", "attention_kernels.py", rounds, *sizes.kernels, **flushed),
            ],
        ),
        Part(
            "profile",
            "The training step by part of the model, in ms",
            50,
            [program("profile", "profile_step.py", *profile, **plain)],
        ),
        Part(
            "decoding",
            "Generation by batch, and reading prompts",
            140,
            decoding(sizes, profile[0], inputs, program),
        ),
        Part(
            "options",
            "Without a memory; remat; and float32",
            100,
            [
                program("windows", "step_time.py", *train, low, *windows),
                program("remat", "step_time.py", *train, low, *remat),
                program("float32", "step_time.py", *train, "--dtypes=float32"),
            ],
        ),
        Part(
            "text",
            "On text: a memory, or one more layer",
            float("inf"),
            text(sizes, inputs, folder),
        ),
    ]


def peers(arguments: list[str], inputs: Inputs, program: Callable[..., Command]) -> list[Command]:
    """All implementations in one program, and those that are not there."""
    missing = []
    if inputs.meliad:
        arguments = [*arguments, f"--meliad={inputs.meliad}"]
    else:
        missing.append(Command("meliad", left_out="no checkout: --meliad=FOLDER"))
    if inputs.lucidrains_python:
        arguments = [*arguments, f"--lucidrains_python={inputs.lucidrains_python}"]
    else:
        missing.append(Command("lucidrains", left_out=NO_LUCIDRAINS))
    return [program("peers", "throughput.py", "--batch_size=4", *arguments), *missing]


def decoding(
    sizes: Sizes, model: str, inputs: Inputs, program: Callable[..., Command]
) -> list[Command]:
    """Generation by batch size, then one row next to the other implementation."""

    def generate(name, rows, *arguments, left_out=""):
        common = [model, f"--batch_size={rows}", f"--rounds={sizes.rounds}"]
        return program(name, "generate.py", *common, *arguments, left_out=left_out)

    alone = f"--contexts={sizes.read}", f"--reads={sizes.read}"
    peer = f"--lucidrains_python={inputs.lucidrains_python}", f"--prompts={sizes.prompts}"
    missing = "" if inputs.lucidrains_python else NO_LUCIDRAINS
    return [
        *(generate(f"decoding_{rows}", rows, *alone) for rows in sizes.decoded),
        generate("decoding_peer", 1, "--contexts=", "--num_tokens=16", *peer, left_out=missing),
    ]


def text(sizes: Sizes, inputs: Inputs, folder: Path) -> list[Command]:
    """A model with memory, one with a layer more instead, and their comparison."""
    left_out = "" if inputs.corpus else "no text: --corpus=PATH"
    path = f"--gin_bindings=data.path = {str(inputs.corpus)!r}"
    commands, runs = [], []
    for variant, layers in (
        ("brt_fixed_gate", sizes.text_layers),
        ("sliding_window", sizes.text_layers + 1),
    ):
        runs.append(str(folder / variant))
        depth = f"--gin_bindings=BlockRecurrentTransformer.num_layers = {layers}"
        words = ["-m", "block_recurrent.train", f"--gin_file=gin/{variant}.gin", *sizes.text]
        words += [path, depth, f"--workdir={runs[-1]}"]
        commands.append(Command(variant, words, left_out=left_out))
    words = ["-m", "block_recurrent.compare", *runs]
    return [*commands, Command("compare", words, left_out=left_out)]
