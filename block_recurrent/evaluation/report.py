"""The report of an evaluation: its numbers as JSON, and a self-contained HTML page."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from block_recurrent.config.run_config import RunConfig, to_gin
from block_recurrent.console.lossy import lossy_mark
from block_recurrent.evaluation.figures import (
    memory_worth_by_distance,
    score_by_distance,
    training_history,
)
from block_recurrent.evaluation.loss_profile import Profile, distance_table
from block_recurrent.files.paths import AnyPath
from block_recurrent.reporting.metrics_log import read_metrics, read_samples, write_numbers
from block_recurrent.reporting.page import cell_text, html_page, html_table

WORTH_METRICS = {"cleared": "memory_worth", "swapped": "memory_worth_over_another"}
UNITS = {
    "loss": "nats per token",
    "accuracy": "share of the tokens",
    "bits_per_token": "bits",
    "bits_per_byte": "bits",
    "bits_per_character": "bits",
    "memory_worth": "bits per token",
    "memory_worth_over_another": "bits per token",
    "memory_segment_length": "tokens",
}
CORPUS = ("documents", "tokens", "bytes", "words", "characters", "text_lost")


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
    text = page(title, config, result, read_metrics(workdir), read_samples(workdir))
    write_numbers(path.with_suffix(".json"), result)
    path.write_text(text, encoding="utf-8")
    print(f"report              {path}, {path.with_suffix('.json')}")


def page(
    title: str,
    config: RunConfig,
    result: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]],
) -> str:
    """The HTML page: results, corpus, charts, tables, samples of text, and all settings.

    Args:
      title: heading of the page.
      config: configuration of the run.
      result: the content of the JSON file.
      history: the lines of metrics.jsonl.
      samples: the lines of samples.jsonl.
    """
    by_distance = result["by_distance"]
    charts = [
        score_by_distance(by_distance, score, config.model)
        for score in ("bits_per_token", "accuracy", "state_rms")
        if score in by_distance
    ]
    if len(by_distance["bits_per_token"]) > 1:
        length = result["memory_segment_length"]
        charts.append(memory_worth_by_distance(by_distance, config.model, length))
    charts += training_history(history)
    names = [name for name in result if name not in ("by_distance", *CORPUS)]
    return html_page(
        title,
        "<h2>Result</h2>",
        html_table(
            {
                "": names,
                "value": [cell_text(result[name]) + lossy_mark(result, name) for name in names],
                "unit": [UNITS.get(name) for name in names],
            }
        ),
        "<h2>Corpus</h2>",
        html_table(corpus_table(config, result)),
        "<h2>Charts</h2>",
        *(chart.html() for chart in charts),
        "<h2>Bits per token by position in the document</h2>",
        html_table(position_table(by_distance)),
        *sample_texts(samples),
        "<h2>Settings</h2>",
        f"<details><summary>config.gin</summary><pre>{html.escape(to_gin(config))}</pre></details>",
    )


def corpus_table(config: RunConfig, result: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Where the text comes from, and how much of it there is."""
    data = config.data
    place = {"data.path": data.path, "data.stores": ", ".join(map(str, data.stores)) or None}
    rows = {"data.corpus": data.corpus, **place, "data.vocabulary": data.vocabulary}
    rows |= {name: result.get(name) for name in CORPUS}
    rows = {name: value for name, value in rows.items() if value is not None}
    return {"": list(rows), f"split {result['split']}": list(rows.values())}


def position_table(by_distance: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Tokens and bits per token in each range of positions."""
    bins = zip(by_distance["first"], by_distance["last"], strict=True)
    return {
        "position in the document": [f"{first + 1:,} – {last + 1:,}" for first, last in bins],
        "tokens": by_distance["tokens"],
        **{f"bits, {name}": bits for name, bits in by_distance["bits_per_token"].items()},
    }


def sample_texts(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the model wrote after the last step that logged a text."""
    if not samples:
        return []
    step = samples[-1]["step"]
    texts = [
        f"<pre>{html.escape(sample['prompt'])}<b>{html.escape(sample['text'])}</b></pre>"
        for sample in samples
        if sample["step"] == step
    ]
    return [f"<h2>Text that the model wrote after step {step:,}</h2>", *texts]
