"""Gin files to configurations: what they set, and every error as a user reads it."""

import dataclasses
import math
import subprocess
import sys

import pytest

from block_recurrent import ModelConfig, UserError
from block_recurrent.config.gin_files import find, read, shipped
from block_recurrent.config.options import OptimizerConfig, TrainConfig
from block_recurrent.config.run_config import RunConfig, differences, load, to_gin, validate

FIXED = "gin/brt_fixed_gate.gin"
RECURRENT = [FIXED, "gin/brt_lstm_gate.gin", "gin/brt_feedback.gin"]
BASELINES = ["gin/transformer_xl.gin", "gin/sliding_window.gin", "gin/full_attention.gin"]
BASELINES += ["gin/lstm.gin"]
SCALES = [name for name in shipped() if name.startswith("gin/scale/")]
DATA = [name for name in shipped() if name.startswith("gin/data/")]
RECALL = ["recall_facts", "recall_values", "recall_filler"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Another folder than the clone's, so that shipped files are found as installed ones are."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(*bindings, files=(FIXED,)) -> str:
    with pytest.raises(UserError) as caught:
        load(files, bindings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is shipped


def test_what_is_shipped():
    assert set(RECURRENT + BASELINES) <= set(shipped())
    scales = {
        f"gin/scale/{name}.gin"
        for name in "tiny small medium paper_12l paper_13l paper_24l".split()
    }
    assert scales <= set(SCALES)
    assert {"gin/data/embedded.gin", "gin/data/text_files.gin"} <= set(DATA)


def test_every_shipped_file_loads_alone_and_opens_with_its_command():
    wrong = []
    for name in shipped():
        load([name], [])
        comment = find(name).read_text().split("\n\n")[0]
        is_comment = all(line.startswith("#") for line in comment.splitlines())
        if not (is_comment and "python -m block_recurrent.train" in comment and name in comment):
            wrong.append(name)
    assert not wrong


@pytest.mark.parametrize("scale", SCALES)
def test_every_variant_at_every_scale(scale):
    alone, tokens = load([scale], []), load([FIXED, scale], []).train
    sizes = ("num_layers", "embedding_size", "num_heads", "window_length", "num_states")
    for variant in RECURRENT + BASELINES:
        config = load([variant, scale], [])
        model, train = config.model, config.train
        for name in sizes:
            assert getattr(model, name) == getattr(alone.model, name), f"{variant} sets {name}"
        assert config.optimizer == alone.optimizer, variant
        assert bool(model.recurrent_layers) == (variant in RECURRENT), variant
        assert model.feedback == (variant == "gin/brt_feedback.gin"), variant
        assert (model.attention == "full") == (variant == "gin/full_attention.gin"), variant
        is_xl = variant == "gin/transformer_xl.gin"
        assert (train.segment_length == model.window_length) == is_xl, variant
        size = train.segment_length * train.batch_size
        assert size == tokens.segment_length * tokens.batch_size, variant


def test_variants_are_the_papers():
    kinds = [(m.gate, m.configuration) for m in (load([name], []).model for name in RECURRENT)]
    assert kinds == [("fixed", "skip"), ("lstm", "dual"), ("fixed", "skip")]
    layers = {scale: load([FIXED, scale], []).model.recurrent_indices for scale in SCALES}
    assert layers["gin/scale/paper_12l.gin"] == (9,)
    assert layers["gin/scale/paper_24l.gin"] == (9, 19)


def test_paper_scale_is_the_experiments():
    config = load([FIXED, "gin/scale/paper_12l.gin"], [])
    assert config.model == ModelConfig(vocab_size=260, dtype="bfloat16"), "as in FACTS"
    assert config.train.segment_length * config.train.batch_size == 131072
    assert config.optimizer == OptimizerConfig()
    assert math.isclose(config.optimizer.learning_rate, 1000**-0.5, rel_tol=1e-3)


@pytest.mark.parametrize("family", [SCALES, DATA], ids=["scale", "data"])
def test_files_of_a_family_replace_each_other(family):
    """Or what the first of two sets would be left over when the second comes after it."""
    of_one_corpus = {("data", name) for name in "path glob".split() + RECALL}
    names = [{(b.section, b.name) for b in read([file], [])} - of_one_corpus for file in family]
    assert all(others == names[0] for others in names)


# What a configuration consists of


def test_no_file_gives_the_defaults():
    assert load([], []) == RunConfig()


def test_the_later_wins(elsewhere):
    (elsewhere / "mine.gin").write_text("train.seed = 1\ntrain.num_steps = 7\n")
    config = load([FIXED, "mine.gin"], ["train.seed = 2", "train.seed = 3"])
    assert (config.train.seed, config.train.num_steps) == (3, 7)


def test_loads_do_not_see_each_other():
    load([FIXED], ["train.seed = 5", "WINDOW_LENGTH = 64"])
    config = load([FIXED], [])
    assert config.train.seed == 0 and config.model.window_length != 64


def test_macros_take_their_last_value():
    config = load(["gin/transformer_xl.gin"], ["WINDOW_LENGTH = 32"])
    assert config.train.segment_length == config.model.window_length == 32


def test_values_become_what_the_field_holds():
    config = load(
        [], ["BlockRecurrentTransformer.recurrent_layers = [1, -2]", "optimizer.clip_norm = 1"]
    )
    assert config.model.recurrent_layers == (1, -2)
    assert type(config.optimizer.clip_norm) is float
    assert type(config.model) is ModelConfig


def test_blocks_and_comments(elsewhere):
    (elsewhere / "mine.gin").write_text("train:  # here\n  seed = 4\n\n  num_steps = 6\n# end")
    config = load(["mine.gin"], [])
    assert (config.train.seed, config.train.num_steps) == (4, 6)


def test_decay_steps_become_a_number():
    assert load([FIXED], ["train.num_steps = 70"]).optimizer.decay_steps == 70
    assert load([FIXED], ["optimizer.decay_steps = 50"]).optimizer.decay_steps == 50


@pytest.mark.parametrize("name", RECURRENT + BASELINES)
def test_to_gin_loads_as_the_same(name, elsewhere):
    bindings = ["data.path = 'a \"b\" \\' \\n é %X'", "optimizer.learning_rate = 1.2345678e-5"]
    config = load([name], bindings)
    (elsewhere / "config.gin").write_text(to_gin(config), encoding="utf-8")
    assert load(["config.gin"], []) == config
    for part in dataclasses.astuple(config):
        assert part, "every part has parameters"
    written = {(b.section, b.name) for b in read(["config.gin"], [])}
    assert len(written) == sum(len(vars(getattr(config, f))) for f in vars(config)), "all of them"


def test_differences():
    old, new = load([FIXED], []), load([FIXED], ["train.seed = 1", "mesh.fsdp = 2"])
    assert differences(old, old) == []
    assert differences(old, new) == [
        "train.seed: 0 in the workdir, 1 now",
        "mesh.fsdp: 1 in the workdir, 2 now",
    ]


# Where files are looked up


def test_the_current_folder_comes_first(elsewhere):
    (elsewhere / "gin").mkdir()
    (elsewhere / FIXED).write_text("train.seed = 11")
    assert load([FIXED], []).train.seed == 11


def test_includes_are_found_beside_their_file(elsewhere):
    (elsewhere / "deep").mkdir()
    (elsewhere / "deep/inner.gin").write_text(f"include '{FIXED}'\ntrain.seed = 12")
    (elsewhere / "deep/outer.gin").write_text("include 'inner.gin'")
    config = load(["deep/outer.gin"], [])
    assert config.train.seed == 12 and config.model.recurrent_layers
    assert load([str(elsewhere / "deep/outer.gin")], []) == config


def test_unknown_file(elsewhere):
    assert error_of(files=["gin/brt_fixd_gate.gin"]) == (
        f"no gin file 'gin/brt_fixd_gate.gin' in {elsewhere} or among those shipped with "
        "block_recurrent: did you mean gin/brt_fixed_gate.gin?"
    )
    assert error_of(files=["paper_12l.gin"]).endswith("did you mean gin/scale/paper_12l.gin?")
    assert error_of(files=["zzz"]).endswith(f"shipped are {', '.join(shipped())}")
    assert error_of(files=["gin"]).startswith("no gin file 'gin' in ")


def test_files_that_cannot_be_read(elsewhere):
    (elsewhere / "binary.gin").write_bytes(b"\xff\xfe")
    assert error_of(files=["binary.gin"]).startswith("cannot read binary.gin as UTF-8 text (")
    (elsewhere / "a.gin").write_text("include 'b.gin'")
    assert error_of(files=["a.gin"]).startswith(f"a.gin:1: no gin file 'b.gin' in {elsewhere} or")
    (elsewhere / "b.gin").write_text("\ninclude 'a.gin'")
    assert error_of(files=["a.gin"]) == "a.gin includes itself: take the include out of it"


# Mistakes in what is written. The place comes first; on the command line it is --gin_bindings.


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("train.num_step = 3", "train has no parameter 'num_step': did you mean train.num_steps?"),
        (
            "train.num_layers = 3",
            "train has no parameter 'num_layers': "
            "did you mean BlockRecurrentTransformer.num_layers?",
        ),
        (
            "mesh.zzz = 3",
            "mesh has no parameter 'zzz': there are data, fsdp, tensor, rules",
        ),
        ("Train.seed = 3", "nothing is called 'Train': did you mean train?"),
        (
            "foo.seed = 3",
            "nothing is called 'foo': there are BlockRecurrentTransformer, train, optimizer, data, "
            "mesh, distributed, watch, prepare",
        ),
        ("num_steps = 3", "'num_steps' is no parameter: did you mean train.num_steps?"),
        ("WINDWO_LENGTH = 3", "nothing reads the macro WINDWO_LENGTH: did you mean WINDOW_LENGTH?"),
        ("train.seed = %WINDOW", "no macro WINDOW is set: did you mean %WINDOW_LENGTH?"),
        ("other/train.seed = 3", "gin's scopes are not used here: take 'other/' out"),
        ("import os", "a configuration is data: take the import out"),
        ("from os import path", "a configuration is data: take the import out"),
        ("train.seed = @train()", "train.seed = @train: must be an integer"),
        ("data.path = @train", "data.path = @train: must be text in quotes, or None"),
    ],
)
def test_names(binding, message):
    assert error_of(binding) == f"--gin_bindings: {message}"


# Python's tokenizer knows a quote that nothing closes from 3.12 on.
UNCLOSED = (
    "close the bracket or the quotes"
    if sys.version_info >= (3, 12)
    else "write section.parameter = value, text in quotes"
)


@pytest.mark.parametrize(
    ("binding", "mend"),
    [
        ("train.seed", "write section.parameter = value, text in quotes"),
        ("train.seed =", "write section.parameter = value, text in quotes"),
        ("train.seed = 3 4", "write section.parameter = value, text in quotes"),
        pytest.param("data.path = 'x", UNCLOSED, id="a quote that nothing closes"),
        ("data.path = my/folder", "my is no value, write 'my'"),
        ("BlockRecurrentTransformer.feedback = true", "true is no value, write True"),
        ("data.path = null", "null is no value, write None"),
        ("train.seed = (1,", "close the bracket or the quotes"),
    ],
)
def test_syntax(binding, mend):
    assert error_of(binding) == f"--gin_bindings: cannot read '{binding}': {mend}"


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("train.num_steps = 'a'", "must be an integer"),
        ("train.num_steps = True", "must be an integer"),
        ("train.num_steps = 10.5", "must be an integer"),
        ("train.num_steps = 1000.0", "must be an integer: write 1000"),
        ("train.num_steps = None", "must be an integer"),
        ("train.num_steps = 0", "must be at least 1"),
        ("train.seed = -1", "must be at least 0 and below 4294967296"),
        ("mesh.data = -2", "must be at least -1"),
        ("optimizer.learning_rate = 'a'", "must be a number"),
        ("optimizer.learning_rate = -0.5", "must be at least 0"),
        ("optimizer.clip_norm = 'a'", "must be a number, or None"),
        ("optimizer.decay_steps = 1.5", "must be an integer, or None"),
        ("BlockRecurrentTransformer.dropout_rate = 1", "must be at least 0 and below 1"),
        ("BlockRecurrentTransformer.feedback = 1", "must be True or False"),
        ("BlockRecurrentTransformer.gate = 'ltsm'", "choose from 'fixed', 'lstm', 'gru'"),
        (
            "BlockRecurrentTransformer.configuration = 'triple'",
            "choose from 'dual', 'single', 'skip'",
        ),
        ("BlockRecurrentTransformer.recurrent_layers = -3", "must be a tuple: write (-3,)"),
        (
            "BlockRecurrentTransformer.recurrent_layers = None",
            "must be a tuple: write (1, 2), (1,) or ()",
        ),
        ("BlockRecurrentTransformer.recurrent_layers = (1, 'a')", "must be an integer"),
    ],
)
def test_values(binding, message):
    assert error_of(binding) == f"--gin_bindings: {binding}: {message}"


def test_infinity():
    assert error_of("optimizer.learning_rate = 1e999").endswith("= inf: must be finite")


def test_places_in_files(elsewhere):
    def error_in(text):
        (elsewhere / "mine.gin").write_text(text)
        return error_of(files=["mine.gin"])

    name = "train has no parameter 'sed': did you mean train.seed?"
    assert error_in("train.seed = 1\n\ntrain.sed = 2\n") == f"mine.gin:3: {name}"
    assert error_in("# a\ntrain:\n  num_steps = 2\n  sed = 3\n") == f"mine.gin:4: {name}"
    assert error_in("\nnum_steps = 3") == (
        "mine.gin:2: 'num_steps' is no parameter: did you mean train.num_steps?"
    )
    assert error_in("X = 'a'\n\ntrain.seed = %X") == (
        "mine.gin:3, macro from mine.gin:1: train.seed = 'a': must be an integer"
    )
    assert error_in("train.seed = 1\nbla\ntrain.seed = 2") == (
        "mine.gin:2: cannot read 'bla': write section.parameter = value, text in quotes"
    )
    assert error_in("train.seed = (1,\n").startswith("mine.gin:1: cannot read 'train.seed = (1,': ")
    assert error_in("A = %B\nB = %A\ntrain.seed = %A") == (
        "macros that parameters of train use refer to each other in a circle: "
        "give one of them a value"
    )


# Values that do not fit each other


def test_segment_is_a_multiple_of_the_window():
    window = "BlockRecurrentTransformer.window_length = 128"
    assert error_of(window, "train.segment_length = 500") == (
        f"train.segment_length = 500 is no multiple of {window}: 384 and 512 are the nearest"
    )
    assert error_of(window, "train.segment_length = 100") == (
        f"train.segment_length = 100 is no multiple of {window}: 128 is the nearest"
    )


def test_recurrent_layers_exist():
    assert "recurrent_layers names layer 99, but the model has num_layers" in error_of(
        "BlockRecurrentTransformer.recurrent_layers = (99,)"
    )


def test_recurrent_layers_have_states():
    none = "BlockRecurrentTransformer.num_states = 0"
    assert error_of(none) == (
        f"{none}: a recurrent layer needs at least 1 (for none, set recurrent_layers = ())"
    )
    load(["gin/transformer_xl.gin"], [none])


def test_configurations_made_in_python_are_checked_too():
    validate(RunConfig())
    with pytest.raises(UserError, match="^train.num_steps = 0: must be at least 1$"):
        validate(RunConfig(train=TrainConfig(num_steps=0)))


# The installed package


def test_import_is_light():
    """Configurations are read by doors that need no TensorBoard, and nothing starts a device."""
    code = (
        "import sys, block_recurrent.config.run_config, jax._src.xla_bridge as bridge\n"
        "assert not bridge.backends_are_initialized()\n"
        "assert 'tensorboardX' not in sys.modules and 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
