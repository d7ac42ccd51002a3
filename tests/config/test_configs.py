"""From gin files to configurations: values, and every error message."""

import dataclasses
import math
import subprocess
import sys

import gin
import pytest

from block_recurrent import ModelConfig, UserError
from block_recurrent.config.changes import MAY_CHANGE, differences
from block_recurrent.config.gin_files import find_gin_file, read_bindings, shipped_gin_files
from block_recurrent.config.run_config import RunConfig, all_values, load, load_prepare, to_gin
from block_recurrent.config.train_options import OptimizerConfig

FIXED = "gin/brt_fixed_gate.gin"
RECURRENT = [
    FIXED,
    "gin/brt_lstm_gate.gin",
    "gin/brt_gru_gate.gin",
    "gin/brt_selective_gate.gin",
    "gin/brt_feedback.gin",
]
BASELINES = ["gin/transformer_xl.gin", "gin/sliding_window.gin", "gin/full_attention.gin"]
BASELINES += ["gin/lstm.gin"]
SCALES = [name for name in shipped_gin_files() if name.startswith("gin/scale/")]
DATA = [name for name in shipped_gin_files() if name.startswith("gin/data/")]
RECALL = ["recall_facts", "recall_values", "recall_filler"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder outside the clone, so that shipped files are found as in an installation."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(*bindings, files=(FIXED,)) -> str:
    with pytest.raises(UserError) as caught:
        load(files, bindings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Shipped files


def test_what_is_shipped():
    assert set(RECURRENT + BASELINES) <= set(shipped_gin_files())
    scales = {
        f"gin/scale/{name}.gin"
        for name in "tiny small medium paper_12l paper_13l paper_24l".split()
    }
    assert scales <= set(SCALES)
    assert {"gin/data/embedded.gin", "gin/data/text_files.gin"} <= set(DATA)


def test_every_shipped_file_loads_alone_and_opens_with_its_command():
    wrong = []
    for name in shipped_gin_files():
        load([name], [])
        comment = find_gin_file(name).read_text().split("\n\n")[0]
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


def test_gates_and_configurations_of_the_variants():
    kinds = [(m.gate, m.configuration) for m in (load([name], []).model for name in RECURRENT)]
    gates = "fixed", "lstm", "gru", "selective", "fixed"
    assert kinds == [(gate, "dual" if gate == "lstm" else "skip") for gate in gates]
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
    """Otherwise values of the first file would remain when a second one follows it."""
    of_one_corpus = {("data", name) for name in "path glob text_field name_field".split() + RECALL}
    names = [
        {(b.section, b.name) for b in read_bindings([file], [])} - of_one_corpus for file in family
    ]
    assert all(others == names[0] for others in names)


# Values


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
    written = {(b.section, b.name) for b in read_bindings(["config.gin"], [])}
    assert len(written) == sum(len(vars(getattr(config, f))) for f in vars(config)), "all of them"


def test_differences():
    old, new = load([FIXED], []), load([FIXED], ["train.seed = 1", "mesh.fsdp = 2"])
    assert differences(old, old) == []
    found = differences(old, new)
    assert found == [("train.seed", 0, 1), ("mesh.fsdp", 1, 2)]
    assert str(found[0]) == "train.seed: 0 in the workdir, 1 now"


def test_what_may_change_is_listed_by_names_that_exist():
    names = set(all_values(load([FIXED], [])))
    assert MAY_CHANGE.keys() <= names | {f"{name.partition('.')[0]}." for name in names}


@pytest.mark.parametrize(
    "change, effect",
    [
        ("train.log_every_steps = 3", "bit for bit"),
        ("watch.port = 9400", "bit for bit"),
        ("data.path = 'elsewhere'", "the documents are the same"),
        ("BlockRecurrentTransformer.remat = 'layer'", "up to rounding, but not bit for bit"),
        ("mesh.tensor = 2", "up to rounding"),
        ("mesh.sequence = 2", "have other dropout masks"),
        ("train.on_nonfinite = 'stop'", "unless a step is not finite"),
        ("train.seed = 1", None),
        ("data.weights = (1.0,)", None),
        ("BlockRecurrentTransformer.num_layers = 3", None),
    ],
)
def test_the_effect_of_a_change(change, effect):
    (found,) = differences(load([FIXED], []), load([FIXED], [change]))
    assert found.effect is None if effect is None else effect in found.effect


# Where files are found


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


def test_files_in_the_home_folder(elsewhere, monkeypatch):
    monkeypatch.setenv("HOME", str(elsewhere / "home"))
    (elsewhere / "home").mkdir()
    (elsewhere / "home/a.gin").write_text("train.initial_model = '~/model'")
    (elsewhere / "b.gin").write_text("include '~/a.gin'\ntrain.sample_prompt = '~/model'")
    for names in (["~/a.gin"], ["b.gin"]):
        assert load(names, []).train.initial_model == str(elsewhere / "home/model")
    assert load(["b.gin"], []).train.sample_prompt == "~/model"
    assert error_of(files=["~no-user/a.gin"]).startswith("no gin file '~no-user/a.gin' in ")


def test_a_byte_order_mark(elsewhere):
    (elsewhere / "a.gin").write_text("train.seed = 11", encoding="utf-8-sig")
    (elsewhere / "b.gin").write_text("include 'a.gin'", encoding="utf-8-sig")
    assert load(["b.gin"], []).train.seed == 11


def test_unknown_file(elsewhere):
    assert error_of(files=["gin/brt_fixd_gate.gin"]) == (
        f"no gin file 'gin/brt_fixd_gate.gin' in {elsewhere} or among those shipped with "
        "block_recurrent: did you mean gin/brt_fixed_gate.gin?"
    )
    assert error_of(files=["paper_12l.gin"]).endswith("did you mean gin/scale/paper_12l.gin?")
    assert error_of(files=["zzz"]).endswith(f"choose from {', '.join(shipped_gin_files())}")
    assert error_of(files=["gin"]).startswith("no gin file 'gin' in ")


def test_files_that_cannot_be_read(elsewhere):
    (elsewhere / "binary.gin").write_bytes(b"\xff\xfe")
    assert error_of(files=["binary.gin"]).startswith("cannot read binary.gin as UTF-8 text (")
    (elsewhere / "a.gin").write_text("include 'b.gin'")
    assert error_of(files=["a.gin"]).startswith(f"a.gin:1: no gin file 'b.gin' in {elsewhere} or")
    (elsewhere / "b.gin").write_text("\ninclude 'a.gin'")
    assert error_of(files=["a.gin"]) == "a.gin includes itself: remove that include"


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
            "mesh has no parameter 'zzz': choose from data, fsdp, tensor, sequence, rules",
        ),
        ("Train.seed = 3", "nothing is called 'Train': did you mean train?"),
        (
            "foo.seed = 3",
            "nothing is called 'foo': choose from BlockRecurrentTransformer, train, optimizer, "
            "data, mesh, distributed, watch, prepare",
        ),
        ("num_steps = 3", "'num_steps' has no section: did you mean train.num_steps?"),
        ("WINDWO_LENGTH = 3", "nothing uses the macro WINDWO_LENGTH: did you mean WINDOW_LENGTH?"),
        ("train.seed = %WINDOW", "the macro WINDOW is not set: did you mean %WINDOW_LENGTH?"),
        ("other/train.seed = 3", "gin's scopes are not supported: remove 'other/'"),
        ("import os", "a gin file cannot import code: remove the import"),
        ("from os import path", "a gin file cannot import code: remove the import"),
        ("train.seed = @train()", "train.seed = @train: must be an integer"),
        ("data.path = @train", "data.path = @train: must be a string, or None"),
    ],
)
def test_names(binding, message):
    assert error_of(binding) == f"--gin_bindings: {message}"


# Python's tokenizer knows a quote that nothing closes from 3.12 on.
UNCLOSED = (
    "close the bracket or the quotes"
    if sys.version_info >= (3, 12)
    else "write section.parameter = value, strings in quotes"
)


@pytest.mark.parametrize(
    ("binding", "fix"),
    [
        ("train.seed", "write section.parameter = value, strings in quotes"),
        ("train.seed =", "write section.parameter = value, strings in quotes"),
        ("train.seed = 3 4", "write section.parameter = value, strings in quotes"),
        pytest.param("data.path = 'x", UNCLOSED, id="a quote that nothing closes"),
        ("data.path = my/folder", "my is not a value, write 'my'"),
        ("BlockRecurrentTransformer.feedback = true", "true is not a value, write True"),
        ("data.path = null", "null is not a value, write None"),
        ("train.seed = (1,", "close the bracket or the quotes"),
    ],
)
def test_syntax(binding, fix):
    assert error_of(binding) == f"--gin_bindings: cannot read '{binding}': {fix}"


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
        (
            "BlockRecurrentTransformer.gate = 'ltsm'",
            "choose from 'fixed', 'lstm', 'gru', 'selective' (did you mean 'lstm'?)",
        ),
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
        "mine.gin:2: 'num_steps' has no section: did you mean train.num_steps?"
    )
    assert error_in("X = 'a'\n\ntrain.seed = %X") == (
        "mine.gin:3, macro from mine.gin:1: train.seed = 'a': must be an integer"
    )
    assert error_in("train.seed = 1\nbla\ntrain.seed = 2") == (
        "mine.gin:2: cannot read 'bla': write section.parameter = value, strings in quotes"
    )
    assert error_in("train.seed = (1,\n").startswith("mine.gin:1: cannot read 'train.seed = (1,': ")
    assert error_in("A = %B\nB = %A\ntrain.seed = %A") == (
        "mine.gin:1: the macro A refers to itself (A → B → A): give it a value"
    )
    assert error_in("A = [%A]\ntrain.seed = 1") == (
        "mine.gin:1: the macro A refers to itself (A → A): give it a value"
    )
    assert error_in("A = (1, %B)\ntrain.seed = 1") == (
        "mine.gin:1: the macro B is not set: set B = …"
    )


# Values that do not fit each other


def test_segment_is_a_multiple_of_the_window():
    window = "BlockRecurrentTransformer.window_length = 128"
    assert error_of(window, "train.segment_length = 500") == (
        f"train.segment_length = 500 is not a multiple of {window}: 384 and 512 are the nearest"
    )
    assert error_of(window, "train.segment_length = 100") == (
        f"train.segment_length = 100 is not a multiple of {window}: 128 is the nearest"
    )


def test_recurrent_layers_exist():
    assert "recurrent_layers names layer 99, but the model has num_layers" in error_of(
        "BlockRecurrentTransformer.recurrent_layers = (99,)"
    )


def test_recurrent_layers_have_states():
    assert error_of("BlockRecurrentTransformer.num_states = 0") == (
        "num_states = 0: a recurrent layer needs at least 1 (for a model without recurrent layers, "
        "set recurrent_layers = ())"
    )
    load(["gin/transformer_xl.gin"], ["BlockRecurrentTransformer.num_states = 0"])


def test_a_host_programs_gin_is_left_alone(elsewhere):
    """A program that itself uses gin imports this package, and has names like ours."""

    @gin.configurable(module="host")
    def train(num_steps=1, window=2):
        return num_steps, window

    with gin.unlock_config():
        gin.parse_config("WINDOW_LENGTH = 7\ntrain.num_steps = 3\ntrain.window = %WINDOW_LENGTH")
        before = gin.config_str()
        assert load([FIXED], ["train.num_steps = 9"]).train.num_steps == 9
        load_prepare([FIXED], [])
        assert error_of("train.seed = @host.train()").endswith("@host.train: must be an integer")
    assert gin.config_str() == before
    assert train() == (3, 7), "train is still the host's, and the only one"
    gin.parse_config("train.num_steps = 4")
    assert train() == (4, 7)
    gin.clear_config()


# The installed package


def test_import_is_light():
    """Reading a configuration needs neither TensorBoard nor a device."""
    code = (
        "import sys, block_recurrent.config.run_config, jax._src.xla_bridge as bridge\n"
        "assert not bridge.backends_are_initialized()\n"
        "assert 'tensorboardX' not in sys.modules and 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_lanes_are_compared_as_numbers():
    """A run that was made before there were lanes, or names their number, has the same value."""
    config = load([FIXED], ["train.lanes = 'auto'"])
    same = load([FIXED], [f"train.lanes = {config.train.num_lanes}"])
    one_per_row = load([FIXED], ["train.lanes = None"])
    assert differences(config, same) == []
    assert differences(one_per_row, config) == [("train.lanes", 16, 512)]
