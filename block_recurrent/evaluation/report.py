"""The report of an evaluation: its numbers as JSON, and a self-contained HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from block_recurrent.config.run_config import RunConfig
from block_recurrent.console.lossy import lossy_mark
from block_recurrent.evaluation.figures import (
    memory_worth_by_distance,
    score_by_distance,
    training_history,
)
from block_recurrent.evaluation.loss_profile import Profile, distance_table
from block_recurrent.files.paths import AnyPath
from block_recurrent.reporting.metrics_log import read_metrics, write_numbers
from block_recurrent.reporting.page import cell_text, html_figure, html_page, html_table
from block_recurrent.reporting.plots import png

WORTH_METRICS = {"cleared": "memory_worth", "swapped": "memory_worth_over_another"}
CAPTIONS = {
    "bits_per_token": "Loss by position in the document. The dotted lines mark how far attention "
    "reaches in one layer (W) and through all layers together. Information from farther back can "
    "only come from the recurrent state.",
    "accuracy": "Accuracy by position in the document: how often the token was the most likely "
    "one.",
    "state_rms": "Root mean square of the recurrent states after the segments that end at this "
    "position. If the states keep growing, later writes may drown out what was stored.",
    "worth": "Memory worth by position: the bits per token lost when the recurrent state is "
    "cleared at every segment of {} tokens, or replaced by that of another document. Keys and "
    "values of the last window are kept. At zero the model does not use its state.",
    "history": "Over training. Held-out documents are scored at every evaluation.",
}


def write_report(
    path: Path,
    workdir: AnyPath,
    config: RunConfig,
    result: Mapping[str, Any],
    profile: Profile,
    memories: Mapping[str, Profile],
):
    """Write the HTML page, and its numbers to the same path with the ending .json.

    Args:
      path: the page.
      workdir: the run's folder, for its name and its metrics.jsonl.
      config: configuration of the run.
      result: scalar results of the evaluation.
      profile: loss by distance.
      memories: loss of the same documents with each memory; empty without recurrent layers.
    """
    result = dict(result)
    if memories:
        result["memory_segment_length"] = config.train.segment_length
        carried = memories["carried"].bits_per_token
        for memory, name in WORTH_METRICS.items():
            if memory in memories:
                result[name] = memories[memory].bits_per_token - carried
    result["by_distance"] = distance_table({"carried": profile, **memories})
    title = f"{workdir.resolve().name}, step {result['step']:,}, {result['split']}"
    text = page(title, config, result, read_metrics(workdir))
    write_numbers(path.with_suffix(".json"), result)
    path.write_text(text, encoding="utf-8")
    print(f"report              {path}, {path.with_suffix('.json')}")


def page(
    title: str,
    config: RunConfig,
    result: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> str:
    """The HTML page: figures, their captions, and tables.

    Args:
      title: heading of the page.
      config: configuration of the run.
      result: the content of the JSON file.
      history: the lines of metrics.jsonl.
    """
    by_distance = result["by_distance"]
    figures = [
        html_figure(png(score_by_distance(by_distance, score, config.model)), CAPTIONS[score])
        for score in ("bits_per_token", "accuracy", "state_rms")
        if score in by_distance
    ]
    if len(by_distance["bits_per_token"]) > 1:
        caption = CAPTIONS["worth"].format(result["memory_segment_length"])
        figure = memory_worth_by_distance(by_distance, config.model)
        figures.append(html_figure(png(figure), caption))
    if history:
        figures.append(html_figure(png(training_history(history)), CAPTIONS["history"]))
    scalars = {
        name: cell_text(value) + lossy_mark(result, name)
        for name, value in result.items()
        if name != "by_distance"
    }
    bins = zip(by_distance["first"], by_distance["last"], strict=True)
    columns = {
        "position in the document": [f"{first + 1:,} – {last + 1:,}" for first, last in bins],
        "tokens": by_distance["tokens"],
        **{f"bits, {name}": bits for name, bits in by_distance["bits_per_token"].items()},
    }
    return html_page(
        title,
        html_table({"": list(scalars), "value": list(scalars.values())}),
        *figures,
        "<h2>Bits per token by position in the document</h2>",
        html_table(columns),
    )
