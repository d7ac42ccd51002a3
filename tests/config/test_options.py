"""Every configuration checks names, types, choices and ranges when it is made in Python."""

import copy
import dataclasses
import inspect
import pickle
from typing import Literal, get_origin

import numpy as np
import pytest
from flax import nnx

from block_recurrent import (
    BlockRecurrentTransformer,
    FullAttention,
    ModelConfig,
    RecurrentCell,
    Sampling,
    SlidingWindowAttention,
    UserError,
)
from block_recurrent.config.data_options import DataConfig, PrepareConfig
from block_recurrent.config.device_options import DistributedConfig, MeshConfig
from block_recurrent.config.run_config import CLASSES, RunConfig
from block_recurrent.config.train_options import OptimizerConfig, TrainConfig, WatchConfig
from block_recurrent.fields import Range, check_value, field_kinds, nearest
from tiny import TINY

CONFIGS = [*CLASSES.values(), Sampling]


def error_of(make, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        make(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WRONG = [
    (ModelConfig, "positions", "T5", "choose from 't5', 'rope' (did you mean 't5'?)"),
    (ModelConfig, "attention", "Full", "choose from 'sliding', 'full' (did you mean 'full'?)"),
    (ModelConfig, "layer", "LSTM", "choose from 'transformer', 'lstm' (did you mean 'lstm'?)"),
    (
        ModelConfig,
        "remat",
        "layers",
        "choose from 'none', 'attention', 'layer' (did you mean 'layer'?)",
    ),
    (ModelConfig, "gate", "foo", "choose from 'fixed', 'lstm', 'gru', 'selective'"),
    (ModelConfig, "gate", None, "choose from 'fixed', 'lstm', 'gru', 'selective'"),
    (ModelConfig, "configuration", 2, "choose from 'dual', 'single', 'skip'"),
    (
        ModelConfig,
        "attention_kernel",
        "palas",
        "choose from 'xla', 'pallas', 'auto' (did you mean 'pallas'?)",
    ),
    (
        ModelConfig,
        "dtype",
        "float16",
        "choose from 'float32', 'bfloat16' (did you mean 'bfloat16'?)",
    ),
    (ModelConfig, "dropout_rate", 1.5, "must be at least 0 and below 1"),
    (ModelConfig, "dropout_rate", float("nan"), "must be finite"),
    (ModelConfig, "dropout_rate", "0.1", "must be a number"),
    (ModelConfig, "vocab_size", 0, "must be at least 1"),
    (ModelConfig, "num_layers", True, "must be an integer"),
    (ModelConfig, "num_layers", 3.0, "must be an integer: write 3"),
    (ModelConfig, "num_layers", np.float32(2.5), "must be an integer"),
    (ModelConfig, "num_heads", None, "must be an integer"),
    (ModelConfig, "num_states", -1, "must be at least 0"),
    (ModelConfig, "feedback", 1, "must be True or False"),
    (ModelConfig, "recurrent_layers", -3, "must be a tuple: write (-3,)"),
    (ModelConfig, "recurrent_layers", "12", "must be a tuple: write (1, 2), (1,) or ()"),
    (ModelConfig, "recurrent_layers", (1.5,), "must be an integer"),
    (TrainConfig, "num_steps", 0, "must be at least 1"),
    (TrainConfig, "seed", 2**32, "must be at least 0 and below 4294967296"),
    (TrainConfig, "initial_model", 3, "must be a string, or None"),
    (
        TrainConfig,
        "on_nonfinite",
        "rollback",
        "choose from 'skip', 'roll_back', 'stop' (did you mean 'roll_back'?)",
    ),
    (OptimizerConfig, "learning_rate", float("inf"), "must be finite"),
    (OptimizerConfig, "clip_norm", 0.0, "must be above 0, or None"),
    (OptimizerConfig, "decay_steps", 0, "must be at least 1, or None"),
    (OptimizerConfig, "beta1", 1, "must be at least 0 and below 1"),
    (DataConfig, "held_out_per_mille", 1000, "must be at least 1 and at most 999"),
    (DataConfig, "stores", "my/store", "must be a tuple: write ('my/store',)"),
    (DataConfig, "weights", (1, 0), "must be above 0"),
    (DataConfig, "corpus", "texts", "choose from 'standard_library', 'text_files', 'store', 'rec"),
    (MeshConfig, "data", -2, "must be at least -1"),
    (MeshConfig, "fsdp", 0, "must be at least 1"),
    (DistributedConfig, "cluster", "SLURM", "choose from 'auto', 'slurm', 'ompi', 'k8s', 'mpi4p"),
    (DistributedConfig, "num_processes", 0, "must be at least 1, or None"),
    (WatchConfig, "slow_factor", 0.5, "must be at least 1"),
    (WatchConfig, "port", 65536, "must be at least 1 and below 65536, or None"),
    (PrepareConfig, "num_shards", 0, "must be at least 1"),
    (RunConfig, "train", {"num_steps": 3}, "must be a TrainConfig"),
    (Sampling, "temperature", -1.0, "must be at least 0"),
    (Sampling, "top_k", 0, "must be at least 1, or None"),
    (Sampling, "top_p", 0, "must be above 0 and at most 1, or None"),
    (Sampling, "top_p", 1.5, "must be above 0 and at most 1, or None"),
]


@pytest.mark.parametrize("cls, name, value, message", WRONG)
def test_a_wrong_value(cls, name, value, message):
    expected = f"{name} = {value!r}: {message}"
    assert error_of(cls, **{name: value}).startswith(expected)
    assert error_of(dataclasses.replace, cls(), **{name: value}).startswith(expected)


def test_every_number_has_a_range_and_every_string_of_a_few_is_a_choice():
    """A field added without a range would take 0 and -1."""
    without = set()
    for cls in CONFIGS:
        for name, kind in field_kinds(cls).items():
            text = repr(kind)
            is_number = "int" in text.replace("Range", "") or "float" in text
            if get_origin(kind) is not Literal and is_number and "Range(" not in text:
                without.add(name)
    assert without == {"recurrent_layers"}  # __post_init__ checks it


@pytest.mark.parametrize("cls", [*CONFIGS, RunConfig])
def test_an_unknown_field(cls):
    name = next(iter(field_kinds(cls)))
    wrong = name[:-1] + "x"
    message = f"{cls.__name__} has no field '{wrong}': did you mean {name}?"
    assert error_of(cls, **{wrong: 1}) == message
    assert error_of(dataclasses.replace, cls(), **{wrong: 1}) == message
    nothing = error_of(cls, qqq=1)
    assert nothing.startswith(f"{cls.__name__} has no field 'qqq': choose from {name}")
    with pytest.raises(TypeError):
        cls(*range(99))


def test_an_unknown_field_of_a_model():
    message = "ModelConfig has no field 'num_layer': did you mean num_layers?"
    assert error_of(ModelConfig, num_layer=3) == message
    assert error_of(BlockRecurrentTransformer, num_layer=3, rngs=nnx.Rngs(0)) == message
    assert error_of(BlockRecurrentTransformer, {"num_layer": 3}, rngs=nnx.Rngs(0)) == message
    assert error_of(BlockRecurrentTransformer, TINY, gate="LSTM", rngs=nnx.Rngs(0)) == (
        "gate = 'LSTM': choose from 'fixed', 'lstm', 'gru', 'selective' (did you mean 'lstm'?)"
    )


def test_numpy_values_and_lists_become_pythons():
    config = ModelConfig(
        num_layers=np.int64(6),
        recurrent_layers=[np.int32(1), -2],
        dropout_rate=np.float64(0.25),
        feedback=np.True_,
        gate=np.str_("lstm"),
    )
    assert config == ModelConfig(
        num_layers=6, recurrent_layers=(1, -2), dropout_rate=0.25, feedback=True, gate="lstm"
    )
    kinds = {"num_layers": int, "dropout_rate": float, "feedback": bool, "gate": str}
    for name, kind in kinds.items():
        assert type(getattr(config, name)) is kind
    assert [type(index) for index in config.recurrent_layers] == [int, int]
    assert type(OptimizerConfig(clip_norm=1).clip_norm) is float
    assert type(Sampling(np.float32(0.5)).temperature) is float


def test_paths_and_only_paths_begin_at_the_home_folder(monkeypatch):
    """A new option that is a path is a `LocalPath`."""
    monkeypatch.setenv("HOME", "/home/me")
    texts = "~/a", "~no-user/a", "gs://a/~/b"
    found = {"/home/me/a": set(), "~/a": set()}
    for cls in CONFIGS:
        for name, kind in field_kinds(cls).items():
            for form in (str, lambda text: (text,)):
                try:
                    given = [check_value(name, form(text), kind) for text in texts]
                except UserError:
                    continue
                assert given[1:] == [form("~no-user/a"), form("gs://a/~/b")]
                text = given[0] if form is str else given[0][0]
                found[text].add(name)
    assert found["/home/me/a"] == {
        "path",
        "held_out",
        "stores",
        "initial_model",
        "vocabulary",  # of prepare; that of data is a name
        "tfds_data_dir",
    }
    assert found["~/a"] == {
        "coordinator_address",
        "encoding",
        "glob",  # inside data.path
        "group_by",
        "module",
        "name_field",
        "order_by",
        "rules",
        "sample_prompt",
        "separator",
        "task",
        "text_field",
        "tfds",
        "tfds_feature",
        "vocabulary",
        "wandb_project",
    }


def test_configurations_are_copied_and_pickled():
    config = ModelConfig(num_layers=4, recurrent_layers=[1])
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config
    assert hash(dataclasses.replace(config)) == hash(config)


# Fields that contradict each other


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: ModelConfig(num_layers=12, recurrent_layers=(-3, 9)),
            "recurrent_layers = (-3, 9) names a layer twice, since the model has 12: write (9,)",
        ),
        (
            lambda: ModelConfig(recurrent_layers=(12,)),
            "recurrent_layers names layer 12, but the model has num_layers = 12: choose from -12 "
            "to 11",
        ),
        (
            lambda: ModelConfig(num_states=0),
            "num_states = 0: a recurrent layer needs at least 1 (for a model without recurrent "
            "layers, set recurrent_layers = ())",
        ),
        (
            lambda: MeshConfig(data=0),
            "mesh.data = 0: must be at least 1, or -1 for all that are left",
        ),
        (
            lambda: RunConfig(train=TrainConfig(segment_length=500)),
            "train.segment_length = 500 is not a multiple of "
            "BlockRecurrentTransformer.window_length = 512: 512 is the nearest",
        ),
    ],
)
def test_fields_that_contradict_each_other(make, message):
    assert error_of(make) == message


def test_a_model_without_recurrent_layers_needs_no_states():
    assert ModelConfig(recurrent_layers=(), num_states=0).num_states == 0


# Arguments of the public modules


@pytest.mark.parametrize(
    "argument, value, message",
    [
        ("positions", "T5", "choose from 't5', 'rope' (did you mean 't5'?)"),
        ("dtype", "float16", "choose from 'float32', 'bfloat16' (did you mean 'bfloat16'?)"),
        ("kernel", "palas", "choose from 'xla', 'pallas', 'auto' (did you mean 'pallas'?)"),
        ("gate", "LSTM", "choose from 'fixed', 'lstm', 'gru', 'selective' (did you mean 'lstm'?)"),
        ("configuration", "skipp", "choose from 'dual', 'single', 'skip' (did you mean 'skip'?)"),
    ],
)
def test_a_wrong_choice_in_a_public_module(argument, value, message):
    sizes = {"num_heads": 2, "head_size": 8, "rngs": nnx.Rngs(0), argument: value}
    modules = {SlidingWindowAttention: {"window_length": 4}, FullAttention: {"window_length": 4}}
    modules[RecurrentCell] = {"num_states": 3, "mlp_dim": 16}
    takers = [each for each in modules if argument in inspect.signature(each.__init__).parameters]
    assert takers
    for module in takers:
        found = error_of(module, 16, **sizes, **modules[module])
        assert found.endswith(f"{argument} = {value!r}: {message}")  # ModelConfig.attention_kernel


def test_check_value():
    assert check_value("rate", 1, float | None) == 1.0
    assert error_of(check_value, "x", np.zeros((2, 2)), int).startswith("x = array([[0., 0.],")


def test_ranges_in_words():
    assert str(Range(1)) == "at least 1"
    assert str(Range(0, below=1)) == "at least 0 and below 1"
    assert str(Range(above=0, most=1)) == "above 0 and at most 1"
    assert [value in Range(above=0, most=1) for value in (0, 0.5, 1, 1.5)] == [0, 1, 1, 0]


def test_nearest_ignores_case():
    assert nearest("T5", ["rope", "t5"]) == "t5"
    assert nearest("rope_", ["Rope", "t5"]) == "Rope"
    assert nearest("zzz", ["rope", "t5"]) is None
