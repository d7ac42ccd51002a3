"""Looks inside a run's recurrent layers: ``python -m block_recurrent.analyze --workdir=DIR …``."""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from block_recurrent.checkpoints import Checkpoints
from block_recurrent.cli import run_main
from block_recurrent.configs import RunConfig
from block_recurrent.data import load_documents
from block_recurrent.data.vocabularies import PADDING, OtherVocabulary, Vocabulary
from block_recurrent.errors import UserError
from block_recurrent.tracing import ARRAYS, Trace, make_tracer
from block_recurrent.train_step import abstract_model
from block_recurrent.workdir import read_config


class Text(NamedTuple):
    """What the model reads: the tokens shifted by one, as in training, in whole blocks."""

    name: str
    inputs: Int[np.ndarray, " T"]
    vocabulary: Vocabulary


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m block_recurrent.analyze",
        description="Gate values, attention between states and tokens, and how the states change "
        "along a text: figures, and the numbers behind them.",
    )
    parser.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="the run")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for the results"
    )
    parser.add_argument(
        "--text_file",
        type=Path,
        metavar="FILE",
        help="the text to read (default: the longest held-out document)",
    )
    parser.add_argument(
        "--max_tokens", type=int, default=16_384, metavar="N", help="of it (default: 16384)"
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if arguments.output.exists() and not arguments.output.is_dir():
        raise UserError(f"--output={arguments.output} is a file: name a folder")
    from block_recurrent.analysis_figures import QUANTILES  # needs matplotlib: says so at once

    config = read_config(arguments.workdir)
    if not config.model.recurrent_layers:
        raise UserError(
            f"the model in {arguments.workdir} has no recurrent layer to look into: name a run "
            "with BlockRecurrentTransformer.recurrent_layers"
        )
    text = read_text(config, arguments.text_file, arguments.max_tokens)
    graphdef, abstract = abstract_model(config.model)
    tracer = make_tracer(graphdef, config.model.window_length)
    history: dict[int, dict[int, dict[str, list[float]]]] = {}
    with Checkpoints(arguments.workdir, read_only=True) as checkpoints:
        for step in checkpoints.steps or [None]:
            trace = tracer(checkpoints.restore_params(abstract, step), text.inputs)
            history[step] = {layer: quantiles(arrays, QUANTILES) for layer, arrays in trace.items()}
    write(arguments.output, config, text, trace, history)


def read_text(config: RunConfig, path: Path | None, max_tokens: int) -> Text:
    """A file, or the longest held-out document, as the model reads it.

    Raises:
      UserError: there is no such file, or not one block in it.
    """
    documents = load_documents(config.data)["held_out"]
    vocabulary, window = documents.vocabulary, config.model.window_length
    if path is None:
        longest = int(np.argmax(documents.lengths))
        name = documents.names[longest]
        tokens = documents.tokens(longest, 0, max(max_tokens, 0))
    else:
        name = str(path)
        try:
            tokens = vocabulary.encode(path.read_bytes())[: max(max_tokens, 0)]
        except OSError as error:
            raise UserError(f"cannot read --text_file={path} ({error.strerror})") from error
    length = len(tokens) // window * window
    if not length:
        raise UserError(
            f"{name} gives {len(tokens)} tokens, and a block of the model is {window}: name a "
            "longer text by --text_file, or a larger --max_tokens"
        )
    inputs = np.concatenate([[PADDING], tokens[: length - 1]]).astype(np.int32)
    return Text(name, inputs, vocabulary)


def quantiles(arrays: dict[str, np.ndarray], points: tuple[float, ...]) -> dict[str, list[float]]:
    """Of the values of each gate, over states and units."""
    names = [name for name in arrays if name.endswith(("_keep", "_take"))]
    return {name: np.quantile(arrays[name], points).tolist() for name in names}


def write(folder: Path, config: RunConfig, text: Text, trace: Trace, history: dict[int, Any]):
    """The figures and numbers of every recurrent layer, and analysis.json."""
    from block_recurrent.analysis_figures import QUANTILES, all_figures, gates_over_training
    from block_recurrent.plots import png

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make --output={folder} ({error.strerror})") from error
    window = config.model.window_length
    labels = [label(token, text.vocabulary) for token in text.inputs[-2 * window :].tolist()]
    labels = ["·"] * (2 * window - len(labels)) + labels  # before a text of one block are zeros
    for layer, arrays in trace.items():
        values = {
            name: np.array([history[step][layer][name] for step in history])
            for name in history[max(history)][layer]
        }
        figures = all_figures(arrays, labels)
        figures["gates_over_training"] = gates_over_training(list(history), values)
        for name, figure in figures.items():
            (folder / f"layer_{layer}_{name}.png").write_bytes(png(figure))
        np.savez_compressed(folder / f"layer_{layer}.npz", **arrays)
    summary = {
        "step": max(history),
        "text": text.name,
        "tokens": len(text.inputs),
        "window_length": window,
        "gate": config.model.gate,
        "configuration": config.model.configuration,
        "arrays": ARRAYS,
        "gate_quantiles": QUANTILES,
        "gates_over_training": history,
    }
    (folder / "analysis.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(
        f"{len(trace)} recurrent layer(s) over {len(text.inputs):,} tokens of {text.name}: "
        f"figures and numbers in {folder}"
    )


def label(token: int, vocabulary: Vocabulary) -> str:
    """A token as an axis can show it."""
    if isinstance(vocabulary, OtherVocabulary):
        return str(token)
    text = vocabulary.decode([token]).decode("utf-8", "replace")
    text = "".join(letter if ord(letter) < 0x250 else "□" for letter in text)  # fonts have Latin
    shown = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return shown.replace("$", r"\$") if shown.isprintable() and shown else "·"


if __name__ == "__main__":
    run_main(main)
