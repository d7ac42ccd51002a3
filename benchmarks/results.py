"""Writes docs/results.md and its figures from the files that benchmarks/experiments.py keeps.

python benchmarks/results.py
"""

import argparse
import math
from pathlib import Path

import results_time
from experiment import KEPT
from experiments import (
    BEST_RATE,
    CHANGES,
    DEFAULT_MODELS,
    FIXED_SKIP,
    GATES_IN_SHORT_RUNS,
    GPU_MODELS,
    GPU_RATES,
    LEARNING_RATES,
    LONG,
    LOW_RATES,
    MODERN,
    PATCHED,
    ROTARY,
    SELECTIVE_SKIP,
    TEXT_MODELS,
)
from results_lanes import (
    lanes_400_table,
    lanes_figure,
    lanes_table,
    parts_table,
    rates_table,
    relative_time,
)
from results_memory import documents, memory_fields, memory_figure
from results_recall import (
    farther_figure,
    farther_table,
    interventions_table,
    kept_per_block,
    recall_figure,
    recall_table,
    recall_training_figure,
)
from results_runs import differences, final, minutes, num_parameters, runs, spread
from results_text import (
    best,
    compared_table,
    gates_by_distance,
    text_figure,
    text_table,
    tuning_table,
)

from block_recurrent.data.recall import SPLITS
from block_recurrent.reporting.plots import Figure, png

PAGE = KEPT.parent / "results.md"
TEMPLATE = Path(__file__).parent / "results_page.md"


def page() -> str:
    recall = runs("recall", FIXED_SKIP)[0].config
    text, tuning = (runs(group, FIXED_SKIP)[0].config for group in ("text", "tuning"))
    [long] = runs("recall", LONG)
    long_low, long_high = long.config.data.recall_filler
    low, high = recall.data.recall_filler
    tokens = text.train.batch_size * text.train.segment_length
    gates = runs("gates", FIXED_SKIP)[0].config
    gates_tokens = gates.train.batch_size * gates.train.segment_length
    gpu = runs("gpu", FIXED_SKIP)[0].config
    gpu_short = runs("gpu_short", FIXED_SKIP)[0].config
    lanes = runs("lanes", FIXED_SKIP)[0].config
    fixed, modern = (runs("default", model)[0] for model in (FIXED_SKIP, MODERN))
    parts_seeds = len(runs("parts", MODERN))
    again = [best("gpu_short", FIXED_SKIP), *runs("gpu_again", FIXED_SKIP)]
    gpu_tokens = gpu.train.batch_size * gpu.train.segment_length
    return TEMPLATE.read_text(encoding="utf-8").format(
        facts=recall.data.recall_facts,
        low=low,
        high=f"{high:,}",
        far=f"{SPLITS['far'][1] * high:,}",
        values=recall.data.recall_values,
        chance=f"{1 / recall.data.recall_values:.2%}",
        layers=recall.model.num_layers,
        width=recall.model.embedding_size,
        window=recall.model.window_length,
        reach=recall.model.num_layers * recall.model.window_length,
        tokens=f"{recall.train.batch_size * recall.train.segment_length:,}",
        segment=recall.train.segment_length,
        steps=f"{recall.train.num_steps:,}",
        recall_minutes=spread(map(minutes, runs("recall", FIXED_SKIP)), ".1f"),
        recall_table=recall_table(),
        farther=f"{SPLITS['farther'][1] * high:,}",
        farther_factor=SPLITS["farther"][1],
        farther_table=farther_table(),
        kept_per_block=kept_per_block(),
        interventions_table=interventions_table(),
        gates_table=compared_table("gates", GATES_IN_SHORT_RUNS),
        default_table=text_table("default", DEFAULT_MODELS),
        rates_table=rates_table(),
        gates_by_distance=gates_by_distance(),
        gates_history=f"{gates.train.num_steps * gates_tokens // gates.train.lanes:,}",
        long_low=long_low,
        long_high=f"{long_high:,}",
        long_accuracy=f"{final(long, 'accuracy'):.1%}",
        long_worth=f"{final(long, 'memory_worth'):z.3f}",
        text_tokens=f"{tokens:,}",
        text_segment=text.train.segment_length,
        text_window=text.model.window_length,
        text_layers=text.model.num_layers,
        text_width=text.model.embedding_size,
        text_steps=text.train.num_steps,
        text_all=f"{tokens * text.train.num_steps / 1e6:.2f}",
        tuning_steps=tuning.train.num_steps,
        tuning_all=f"{tokens * tuning.train.num_steps / 1e6:.2f}",
        tuning_table=tuning_table("tuning", TEXT_MODELS, (*LOW_RATES, *LEARNING_RATES)),
        text_table=compared_table("text", TEXT_MODELS),
        text_lanes=text.train.lanes,
        changes_rate=BEST_RATE,
        changes_table=compared_table("changes", PATCHED),
        gpu_layers=gpu.model.num_layers,
        gpu_width=gpu.model.embedding_size,
        gpu_window=gpu.model.window_length,
        gpu_segment=gpu.train.segment_length,
        gpu_rows=gpu.train.batch_size,
        gpu_steps=gpu.train.num_steps,
        gpu_all=f"{gpu_tokens * gpu.train.num_steps / 1e6:.1f}",
        gpu_short_table=tuning_table("gpu_short", CHANGES, GPU_RATES),
        gpu_table=text_table("gpu", GPU_MODELS),
        gpu_differences=differences("gpu", *GPU_MODELS[:2]),
        gpu_short_steps=gpu_short.train.num_steps,
        gpu_again=spread((final(one, "bits_per_byte") for one in again), ".3f"),
        lanes_table=lanes_table(),
        lanes_400_table=lanes_400_table(),
        lanes_400_documents=len(documents(runs("lanes_400", FIXED_SKIP)[0])),
        selective_table=compared_table("default", (FIXED_SKIP, SELECTIVE_SKIP)),
        modern_size=f"{num_parameters(modern) / num_parameters(fixed):.1f}",
        modern_time=f"{relative_time(MODERN):.2f}",
        parts_table=parts_table(),
        parts_seeds=parts_seeds,
        lanes_steps=f"{lanes.train.num_steps:,}",
        lanes_tokens=f"{lanes.train.batch_size * lanes.train.segment_length:,}",
        **memory_fields(),
        rotary_gpu=f"{final(runs('gpu_short', ROTARY)[0], 'bits_per_byte'):.3f}",
        **results_time.numbers(),
    )


def figures() -> dict[str, Figure]:
    """The figures, by file name."""
    config = runs("recall", FIXED_SKIP)[0].config
    values = config.data.recall_values
    reach = config.model.num_layers * config.model.window_length
    return {
        "recall.png": recall_figure(1 / values, reach),
        "recall_farther.png": farther_figure(1 / values),
        "recall_training.png": recall_training_figure(math.log2(values)),
        "text.png": text_figure(),
        "lanes.png": lanes_figure(),
        "memory.png": memory_figure(),
        "time_to_quality.png": results_time.figure(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.parse_args()
    PAGE.write_text(page(), encoding="utf-8")
    for name, figure in figures().items():
        (KEPT / name).write_bytes(png(figure))


if __name__ == "__main__":
    main()
