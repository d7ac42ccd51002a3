"""Write the results of an analysis: figures, arrays and a summary."""

import json
from pathlib import Path

import numpy as np

from block_recurrent.analysis.figures import all_figures, gates_over_training
from block_recurrent.analysis.tracing import ARRAYS, QUANTILES, Text, Trace
from block_recurrent.data.vocabularies import OtherVocabulary, Vocabulary
from block_recurrent.errors import UserError
from block_recurrent.model.config import ModelConfig
from block_recurrent.reporting.plots import png


def write_analysis(
    folder: Path,
    model: ModelConfig,
    text: Text,
    step: int,
    trace: Trace,
    history: dict[int, dict[int, dict[str, list[float]]]],
):
    """Write the figures and arrays of every recurrent layer, and analysis.json.

    Args:
      folder: where to write; created if missing.
      model: configuration of the run's model.
      text: the text that the model read.
      step: step of the checkpoint that is traced.
      trace: trace of this checkpoint.
      history: step → layer → `gate_quantiles`, for all checkpoints.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create --output={folder} ({error.strerror})") from error
    window = model.window_length
    labels = [label(token, text.vocabulary) for token in text.inputs[-2 * window :].tolist()]
    labels = ["·"] * (2 * window - len(labels)) + labels  # a text of one block is preceded by zeros
    for layer, arrays in trace.items():
        values = {
            name: np.array([gates[layer][name] for gates in history.values()])
            for name in history[step][layer]
        }
        figures = all_figures(arrays, labels)
        figures["gates_over_training"] = gates_over_training(list(history), values)
        for name, figure in figures.items():
            (folder / f"layer_{layer}_{name}.png").write_bytes(png(figure))
        np.savez_compressed(folder / f"layer_{layer}.npz", **arrays)
    summary = {
        "step": step,
        "text": text.name,
        "tokens": len(text.inputs),
        "window_length": window,
        "gate": model.gate,
        "configuration": model.configuration,
        "arrays": ARRAYS,
        "gate_quantiles": QUANTILES,
        "gates_over_training": history,
    }
    (folder / "analysis.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(
        f"{len(trace)} recurrent layer(s) over {len(text.inputs):,} tokens of {text.name}: "
        f"figures and arrays in {folder}"
    )


def label(token: int, vocabulary: Vocabulary) -> str:
    """A printable label of a token, for an axis."""
    if isinstance(vocabulary, OtherVocabulary):
        return str(token)
    text = vocabulary.decode([token]).decode("utf-8", "replace")
    text = "".join(
        letter if ord(letter) < 0x250 else "□" for letter in text
    )  # the font has only Latin letters
    shown = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return shown.replace("$", r"\$") if shown.isprintable() and shown else "·"
