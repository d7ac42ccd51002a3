"""The runs of docs/results.md: trains and evaluates them, and keeps their small files.

    python benchmarks/experiments.py                 # all that are missing; takes hours
    python benchmarks/experiments.py recall/lstm/    # those whose names start with this
    python benchmarks/experiments.py --list          # their commands

Runs are in runs/. Their metrics.jsonl and evaluations are copied to docs/results/.
"""

import argparse
from collections.abc import Sequence

from experiment import INTERVENE, SCORE, SCORE_TUNING, Experiment, Model, evaluate

SKIP = "BlockRecurrentTransformer.configuration = 'skip'"
DUAL = "BlockRecurrentTransformer.configuration = 'dual'"
FIVE_LAYERS = "BlockRecurrentTransformer.num_layers = 5"

FIXED_SKIP = Model("fixed_skip", "Rec:fixed:skip", "brt_fixed_gate")
FIXED_DUAL = Model("fixed_dual", "Rec:fixed:dual", "brt_fixed_gate", (DUAL,))
GRU_SKIP = Model("gru_skip", "Rec:gru:skip", "brt_gru_gate")
SELECTIVE_SKIP = Model("selective_skip", "Rec:selective:skip", "brt_selective_gate")
LSTM_DUAL = Model("lstm_dual", "Rec:lstm:dual", "brt_lstm_gate")
LSTM = Model("lstm", "LSTM", "lstm")
GATE_MODELS = (FIXED_SKIP, GRU_SKIP, SELECTIVE_SKIP)
GATES_IN_SHORT_RUNS = (FIXED_SKIP, GRU_SKIP)
RECALL_MODELS = (
    *GATE_MODELS,
    Model("lstm_skip", "Rec:lstm:skip", "brt_lstm_gate", (SKIP,)),
    Model("transformer_xl", "Transformer-XL", "transformer_xl"),
    Model("sliding_window", "sliding window", "sliding_window"),
    LSTM,
)
# Filler so long that the gradient, which ends with the segment, never reaches from answer to fact.
LONG = Model(
    "long", "Rec:fixed:skip, long filler", "brt_fixed_gate", ("data.recall_filler = (512, 2048)",)
)
SLIDE_5 = Model("sliding_window", "sliding window, 5 layers", "sliding_window", (FIVE_LAYERS,))
XL_5 = Model("transformer_xl", "Transformer-XL, 5 layers", "transformer_xl", (FIVE_LAYERS,))
TEXT_MODELS = (
    FIXED_SKIP,
    SLIDE_5,
    XL_5,
    LSTM,
    FIXED_DUAL,
    LSTM_DUAL,
    Model("feedback", "Feedback:fixed:skip", "brt_feedback"),
)
SHORT = "train.num_steps = 400"
MANY = "train.lanes = 256"
ONE_PER_ROW = "train.lanes = None"
LEARNING_RATES = (0.06, 0.12, 0.24)
LOW_RATES = (0.015, 0.03)  # for the LSTM alone
BEST_RATE = 0.12  # of those, for all models except:
BEST_RATES = {"lstm": 0.03, "lstm_dual": 0.06, "transformer_xl": 0.24}
LAYERS_13 = "BlockRecurrentTransformer.num_layers = 13"
ROTARY = Model(
    "rotary",
    "Rec:fixed:skip, rotary positions",
    "brt_fixed_gate",
    ("BlockRecurrentTransformer.positions = 'rope'",),
)
GPU_MODELS = (
    FIXED_SKIP,
    Model("sliding_window", "sliding window, 13 layers", "sliding_window", (LAYERS_13,)),
    Model("transformer_xl", "Transformer-XL, 13 layers", "transformer_xl", (LAYERS_13,)),
    FIXED_DUAL,
    LSTM_DUAL,
    ROTARY,
)
# Variants beyond the paper.
CHANGES = (
    *GPU_MODELS[:2],
    ROTARY,
    *(
        Model(name, f"Rec:fixed:skip, {label}", "brt_fixed_gate", (binding,))
        for name, label, binding in (
            ("middle", "recurrent layer 5", "RECURRENT_LAYERS = (-7,)"),
            ("two", "recurrent layers 4 and 9", "RECURRENT_LAYERS = (-8, -3)"),
            ("states256", "256 states", "BlockRecurrentTransformer.num_states = 256"),
        )
    ),
)
# Variants that need PATCH, and two that do not.
GATED = "BlockRecurrentTransformer.gated_ffn = True"
PATCHED = (
    FIXED_SKIP,
    Model("gated", "Rec:fixed:skip, gated feed-forward (SwiGLU)", "brt_fixed_gate", (GATED,)),
    ROTARY,
    *(
        Model(change, f"Rec:fixed:skip, {label}", "brt_fixed_gate", change=change)
        for change, label in (
            ("squared", "squared ReLU"),
            ("shared_keys", "one head of keys and values"),
            ("slow_gate", "gates begin at σ(2)"),
            ("fast_gate", "gates begin at σ(−2)"),
            ("read_above", "layers above read the state"),
        )
    ),
)
LANES = (16, 256, 1024)  # and 512, the default
LANES_OF_400_STEPS = (128, 512, 1024, 2048, 3200)
MODERN = Model("modern", "modern configuration", "brt_modern")
OTHER_RATES = (0.04,)  # the default is 0.06
# In as many steps as take the time of the default run of FIXED_SKIP.
MODERN_IN_TIME = Model(
    "modern_in_time",
    "modern configuration, 2,230 steps",
    "brt_modern",
    ("train.num_steps = 2_230",),
)
DEFAULT_MODELS = (FIXED_SKIP, SELECTIVE_SKIP, MODERN, MODERN_IN_TIME)
# The modern configuration without each of its parts.
PARTS = (
    FIXED_SKIP,
    MODERN,
    *(
        Model(name, f"without {label}", "brt_modern", (f"BlockRecurrentTransformer.{binding}",))
        for name, label, binding in (
            ("no_ngrams", "n-grams", "ngram_rows = 0"),
            ("no_gated_ffn", "gated feed-forward", "gated_ffn = False"),
            ("no_rotary", "rotary positions", "positions = 't5'"),
        )
    ),
)
# As many steps as take the time of 400 of FIXED_SKIP (python benchmarks/experiment_time.py parts).
PARTS_STEPS = {
    "fixed_skip": 400,
    "modern": 361,
    "no_ngrams": 400,
    "no_gated_ffn": 352,
    "no_rotary": 365,
}
# Models that go on from the same trained sliding window.
SLIDE_4 = Model("sliding_window_4", "sliding window, 4 layers", "sliding_window")
EVERY_LAYER = Model(
    "every_layer",
    "Rec:fixed:skip, 8 states in every layer",
    "brt_fixed_gate",
    ("RECURRENT_LAYERS = (0, 1, 2, 3)", "BlockRecurrentTransformer.num_states = 8"),
)
MEMORY_SEEDS = {
    SLIDE_5: (1, 2, 3),
    FIXED_SKIP: (1, 2, 3),
    EVERY_LAYER: (1,),
    SLIDE_4: (1, 2),
}
# Tokens also read what the cell wrote in each of the last 16 blocks. Needs PATCH.
LONG_TERM = Model(
    "long_term",
    "Rec:fixed:skip, with what it wrote in the last 16 blocks",
    "brt_fixed_gate",
    change="long_term",
)
# The same with windows of 128, in as many steps as take about the time of 1,200 of SLIDE_5.
WIDE_SEEDS = {
    SLIDE_5: (1, 2, 3),
    FIXED_SKIP: (1, 2, 3),
    LONG_TERM: (2,),
    SLIDE_4: (1, 2, 3),
    XL_5: (2, 3),
}
WIDE_STEPS = {
    "sliding_window": 1200,
    "fixed_skip": 1316,
    "long_term": 1190,
    "sliding_window_4": 1440,
    "transformer_xl": 1220,
}
GPU_RATES = (0.03, 0.06, 0.12)
BEST_GPU_RATE = 0.06


def recall(model: Model, seed: int) -> Experiment:
    """The memory task."""
    files, bindings = ("data/recall", "scale/recall"), (f"train.seed = {seed}",)
    splits = ("held_out", "far", *["farther"] * (model in GATE_MODELS))
    then = (*map(evaluate, splits), *[INTERVENE] * (model == FIXED_SKIP))
    return Experiment("recall", model, str(seed), files, bindings, then)


def short(steps: int, seed: int, lanes: int = 256) -> tuple[str, ...]:
    """The bindings of a short run on text with many lanes."""
    return (
        f"train.lanes = {lanes}",
        f"train.num_steps = {steps}",
        f"train.eval_every_steps = {steps}",
        f"train.checkpoint_every_steps = {steps}",
        "train.sample_tokens = 0",
        f"train.seed = {seed}",
    )


def gates(model: Model, seed: int) -> Experiment:
    """A short run on text, to compare gates."""
    bindings = short(400, seed)
    return Experiment(
        "gates", model, str(seed), ("scale/small",), bindings, (evaluate("held_out"),)
    )


def parts(model: Model, seed: int) -> Experiment:
    """A short run on text in a given time, to see what each part of a configuration brings."""
    bindings = short(PARTS_STEPS[model.name], seed)
    return Experiment("parts", model, str(seed), ("scale/small",), bindings)


def tuning(model: Model, learning_rate: float) -> Experiment:
    """A short run to choose the learning rate."""
    bindings = (SHORT, MANY, f"optimizer.learning_rate = {learning_rate}")
    return Experiment("tuning", model, f"{learning_rate}", ("scale/mini",), bindings)


def text(model: Model, seed: int) -> Experiment:
    """Python's standard library, at the best learning rate."""
    rate = BEST_RATES.get(model.name, BEST_RATE)
    bindings = (MANY, f"optimizer.learning_rate = {rate}", f"train.seed = {seed}")
    return Experiment("text", model, str(seed), ("scale/mini",), bindings)


def change(model: Model, seed: int) -> Experiment:
    """A short run of a variant beyond the paper."""
    rate = f"optimizer.learning_rate = {BEST_RATE}"
    bindings = (SHORT, MANY, rate, f"train.seed = {seed}")
    return Experiment("changes", model, str(seed), ("scale/mini",), bindings)


def lanes(number: int) -> Experiment:
    """The default run, with this many documents open."""
    return Experiment("lanes", FIXED_SKIP, str(number), (), (f"train.lanes = {number}",))


def rates(model: Model, learning_rate: float) -> Experiment:
    """The default run at another learning rate."""
    bindings = (f"optimizer.learning_rate = {learning_rate}",)
    return Experiment("rates", model, f"{learning_rate}", (), bindings)


def default(model: Model, seed: int) -> Experiment:
    """The default run."""
    return Experiment("default", model, str(seed), (), (f"train.seed = {seed}",))


# The corpus that benchmarks/fetch_corpus.py downloads.
ANSIBLE = (
    "data.path = 'corpora/ansible-9.13.0'",
    "data.glob = '**/*.py'",
    "data.held_out_per_mille = 3",
)


def parts_large(model: Model, seed: int) -> Experiment:
    """`parts` on the larger corpus."""
    bindings = (*ANSIBLE, *short(PARTS_STEPS[model.name], seed))
    files = ("data/text_files", "scale/small")
    return Experiment("parts_large", model, str(seed), files, bindings)


# The sources of a kernel, with a tokenizer trained on them; docs/results.md has the commands.
KERNEL = (
    "data.corpus = 'store'",
    "data.stores = ('corpora/linux-6.1-tokens',)",
    "BlockRecurrentTransformer.vocab_size = 2048",
)
KERNEL_BYTES = "data.path = 'corpora/linux-6.1'", "data.held_out = 'held_out'"
TRUNK = "runs/memory_trunk.safetensors"
# As many steps as take the time of 1,200 of SLIDE_5 (python benchmarks/experiment_time.py memory).
MEMORY_STEPS = {
    "sliding_window": 1200,
    "fixed_skip": 1200,
    "every_layer": 1007,
    "sliding_window_4": 1450,
}


def lanes_400(number: int) -> Experiment:
    """400 steps on the sources of a kernel, as in time_to_quality.py, with so many documents open.

    The seed is none of those of time_to_quality.py, for which they choose the number.
    """
    bindings = (*KERNEL_BYTES, *short(400, 3, number), "train.eval_tokens = 200_000")
    files = ("data/text_files", "scale/small")
    return Experiment("lanes_400", FIXED_SKIP, str(number), files, bindings, (SCORE_TUNING,))


def kernel(
    group: str, model: Model, seed: int, steps: int, then: Sequence[str], *bindings: str
) -> Experiment:
    """The sources of a kernel, in segments of 8 windows."""
    window = 128 if group == "memory_128" else 32
    rows = f"SEGMENT_LENGTH = {8 * window}", f"BATCH_SIZE = {256 // window}"
    if model == XL_5:
        rows = (f"BATCH_SIZE_OF_WINDOWS = {2048 // window}",)
    if window == 128:
        rows = (f"WINDOW_LENGTH = {window}", *rows)
    bindings = (*KERNEL, *rows, *short(steps, seed), "train.eval_tokens = 200_000", *bindings)
    files = ("data/text_files", "scale/small")
    return Experiment(group, model, str(seed), files, bindings, (then,))


def memory_trunk() -> Experiment:
    """The sliding window that the runs of `memory` go on from."""
    export = "-m", "block_recurrent.export", f"--output={TRUNK}"
    return kernel("memory_trunk", SLIDE_4, 0, 1500, export)


def memory(model: Model, seed: int, group: str = "memory", times: int = 1) -> Experiment:
    """Goes on from the trunk with a memory or a layer more, so many times the same time."""
    steps, start = times * MEMORY_STEPS[model.name], f"train.initial_model = '{TRUNK}'"
    return kernel(group, model, seed, steps, SCORE, start)


def memory_128(model: Model, seed: int) -> Experiment:
    """`memory` with windows four times as long."""
    start = f"train.initial_model = '{TRUNK}'"
    return kernel("memory_128", model, seed, WIDE_STEPS[model.name], SCORE, start)


def memory_longer(model: Model, seed: int) -> Experiment:
    """`memory` for three times as long."""
    return memory(model, seed, "memory_longer", 3)


def gpu(model: Model, seed: int) -> Experiment:
    """The larger corpus with 12 layers, on a GPU."""
    bindings = (
        *ANSIBLE,
        ONE_PER_ROW,
        f"optimizer.learning_rate = {BEST_GPU_RATE}",
        f"train.seed = {seed}",
    )
    return Experiment("gpu", model, str(seed), ("data/text_files", "scale/gpu"), bindings)


def gpu_short(model: Model, learning_rate: float) -> Experiment:
    """`gpu` with half as many steps, to choose the learning rate and to try variants."""
    bindings = (
        *ANSIBLE,
        ONE_PER_ROW,
        "train.num_steps = 300",
        f"optimizer.learning_rate = {learning_rate}",
    )
    files = ("data/text_files", "scale/gpu")
    return Experiment("gpu_short", model, f"{learning_rate}", files, bindings)


def gpu_again(number: int) -> Experiment:
    """The same run again, to see the effect of a GPU's varying order of summation."""
    once = gpu_short(FIXED_SKIP, BEST_GPU_RATE)
    return once._replace(group="gpu_again", run=str(number))


EXPERIMENTS = [
    *(recall(model, seed) for model in RECALL_MODELS for seed in range(3)),
    recall(LONG, 0),
    *map(lanes, LANES),
    *map(lanes_400, LANES_OF_400_STEPS),
    *(rates(model, rate) for model in (FIXED_SKIP, MODERN) for rate in OTHER_RATES),
    *(default(model, seed) for model in DEFAULT_MODELS for seed in range(3)),
    *(gates(model, seed) for model in GATES_IN_SHORT_RUNS for seed in range(3)),
    *(parts(model, seed) for model in PARTS for seed in range(3)),
    *(parts_large(model, seed) for model in PARTS for seed in range(3)),
    *(tuning(model, rate) for model in TEXT_MODELS for rate in LEARNING_RATES),
    *(tuning(LSTM, rate) for rate in LOW_RATES),
    *(text(model, seed) for model in TEXT_MODELS for seed in range(3)),
    memory_trunk(),
    *(memory(model, seed) for model, seeds in MEMORY_SEEDS.items() for seed in seeds),
    *(memory_128(model, seed) for model, seeds in WIDE_SEEDS.items() for seed in seeds),
    *(memory_longer(model, 1) for model in (SLIDE_5, FIXED_SKIP)),
    *(gpu_short(model, rate) for model in CHANGES for rate in GPU_RATES),
    *map(gpu_again, range(1, 5)),
    *(gpu(model, seed) for model in GPU_MODELS for seed in range(3)),
    *(change(model, seed) for model in PATCHED for seed in range(3)),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", default=[""], help="starts of names; default: all")
    parser.add_argument("--list", action="store_true", help="print the commands and do nothing")
    arguments = parser.parse_args()
    chosen = [one for one in EXPERIMENTS if one.name.startswith(tuple(arguments.names))]
    if not chosen:
        names = ", ".join(sorted({f"{one.group}/{one.model.name}/" for one in EXPERIMENTS}))
        parser.error(f"no name starts with {' or '.join(arguments.names)}: choose from {names}")
    for experiment in chosen:
        if arguments.list:
            print(experiment.line)
        elif not experiment.is_there:
            experiment.run_and_keep()


if __name__ == "__main__":
    main()
