"""The configuration of a run: from gin files, checked, and back to gin text."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import gin

from block_recurrent.config.gin_files import COMMAND_LINE, Binding, read
from block_recurrent.config.gin_names import check_names, macros_in
from block_recurrent.config.options import (
    DataConfig,
    DistributedConfig,
    MeshConfig,
    OptimizerConfig,
    PrepareConfig,
    TrainConfig,
    WatchConfig,
    check_segment,
)
from block_recurrent.errors import UserError
from block_recurrent.fields import conform
from block_recurrent.model.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run. A schedule that ends with the run is given its number here."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    mesh: MeshConfig = MeshConfig()
    distributed: DistributedConfig = DistributedConfig()
    watch: WatchConfig = WatchConfig()

    def __post_init__(self):
        if self.optimizer.ends and self.optimizer.decay_steps is None:
            optimizer = dataclasses.replace(self.optimizer, decay_steps=self.train.num_steps)
            object.__setattr__(self, "optimizer", optimizer)


# What gin files call each part of a RunConfig.
SECTIONS = {
    "BlockRecurrentTransformer": "model",
    "train": "train",
    "optimizer": "optimizer",
    "data": "data",
    "mesh": "mesh",
    "distributed": "distributed",
    "watch": "watch",
}
CLASSES = {section: get_type_hints(RunConfig)[field] for section, field in SECTIONS.items()}
CLASSES["prepare"] = PrepareConfig  # known to every gin file, but it decides no run
PARAMETERS = {section: get_type_hints(cls) for section, cls in CLASSES.items()}

LEAST = {int: 1, float: 0}
# least <= value < below, of the parameters that are not just positive integers or numbers from 0.
RANGES = {
    "BlockRecurrentTransformer.num_states": (0, math.inf),  # `validate` looks at them
    "BlockRecurrentTransformer.dropout_rate": (0, 1),
    "train.seed": (0, 2**32),
    "train.sample_tokens": (0, math.inf),
    "optimizer.warmup_steps": (0, math.inf),
    "optimizer.beta1": (0, 1),
    "optimizer.beta2": (0, 1),
    "mesh.data": (-1, math.inf),
    "watch.slow_factor": (1, math.inf),
    "watch.port": (1, 2**16),
}

for _section, _class in CLASSES.items():
    gin.external_configurable(_class, name=_section, module="block_recurrent")


def load(gin_files: Sequence[str], bindings: Sequence[str]) -> RunConfig:
    """The configuration that gin files and single bindings set, the later over the earlier.

    Gin's state is global; this empties it first.

    Args:
      gin_files: looked up in the current folder, then among those shipped with the package. An
        ``include`` is also looked up beside the file in which it stands.
      bindings: such as ``train.num_steps = 100``.

    Raises:
      UserError: a file is missing, or something in it names no parameter or does not suit it.
    """
    found = _bind(gin_files, bindings)
    parts = {field: _part(section, found) for section, field in SECTIONS.items()}
    config = RunConfig(**parts)
    validate(config)
    return config


def load_prepare(
    gin_files: Sequence[str], bindings: Sequence[str]
) -> tuple[PrepareConfig, DataConfig]:
    """What the same gin files and bindings say about making a token store; see `load`.

    Raises:
      UserError: as `load`, or a file names a module to be imported, which only a binding may.
    """
    found = _bind(gin_files, bindings)
    module = found.get(("prepare", "module"))
    if module and module.place != COMMAND_LINE:
        raise UserError(
            f"{module.place}: prepare.module names code to be run, which no gin file may: take it "
            f'out, and give --gin_bindings="prepare.module = {module.value!r}" if you trust it'
        )
    return _part("prepare", found), _part("data", found)


def validate(config: RunConfig):
    """Checks every value, and those that must fit each other.

    Raises:
      UserError: something does not fit.
    """
    for (section, name), value in _values(config).items():
        _check_value(section, name, value)
    check_segment(
        config.train.segment_length,
        config.model.window_length,
        "train.segment_length",
        "BlockRecurrentTransformer.window_length",
    )
    if config.model.recurrent_layers and config.model.num_states < 1:
        raise UserError(
            f"BlockRecurrentTransformer.num_states = {config.model.num_states}: a recurrent layer "
            "needs at least 1 (for none, set recurrent_layers = ())"
        )


def to_gin(config: RunConfig) -> str:
    """Every parameter as gin text, from which `load` makes the same configuration."""
    lines = [
        "# The complete configuration of a run. Repeat the run with",
        "#   python -m block_recurrent.train --gin_file=(this file)",
    ]
    above = None
    for (section, name), value in _values(config).items():
        if section != above:
            lines.append("")
        lines.append(f"{section}.{name} = {value!r}")
        above = section
    return "\n".join(lines) + "\n"


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """The parameters whose values differ, as "train.seed: 0 in the workdir, 1 now"."""
    after = _values(new)
    return [
        f"{section}.{name}: {value!r} in the workdir, {after[section, name]!r} now"
        for (section, name), value in _values(old).items()
        if value != after[section, name]
    ]


def _values(config: RunConfig) -> dict[tuple[str, str], Any]:
    """(section, parameter) → value."""
    return {
        (section, name): getattr(getattr(config, field), name)
        for section, field in SECTIONS.items()
        for name in PARAMETERS[section]
    }


def _bind(gin_files: Sequence[str], bindings: Sequence[str]) -> dict[tuple[str, str], Binding]:
    """Checks the names of all bindings and gives them to gin, which has none before."""
    found = {(binding.section, binding.name): binding for binding in read(gin_files, bindings)}
    check_names(found, PARAMETERS)
    gin.clear_config()
    for (section, name), binding in found.items():
        key = (f"block_recurrent.{section}", name) if section else ("gin.macro", "value")
        gin.bind_parameter(("" if section else name, *key), binding.value)
    return found


def _part(section: str, found: Mapping[tuple[str, str], Binding]) -> Any:
    """One part of the configuration, its macros evaluated by gin."""
    try:
        values = gin.get_bindings(f"block_recurrent.{section}")
    except RecursionError as error:
        raise UserError(
            f"macros that parameters of {section} use refer to each other in a circle: "
            "give one of them a value"
        ) from error
    checked = {}
    for name, value in values.items():
        binding = found[section, name]
        try:
            checked[name] = _check_value(section, name, value)
        except UserError as error:
            places = [binding.place, *(found["", macro].place for macro in macros_in(binding))]
            raise UserError(f"{', macro from '.join(places)}: {error}") from error
    return CLASSES[section](**checked)


def _check_value(section: str, name: str, value: Any) -> Any:
    """The value as the dataclass holds it. Raises UserError if it does not suit."""
    target = f"{section}.{name}"
    try:
        held = conform(value, PARAMETERS[section][name])
        if type(held) in LEAST:
            _check_range(held, *RANGES.get(target, (LEAST[type(held)], math.inf)))
    except ValueError as error:
        raise UserError(f"{target} = {value!r}: {error}") from error
    return held


def _check_range(value: int | float, least: int | float, below: int | float):
    if not least <= value < below:
        above = "" if below == math.inf else f" and below {below}"
        raise ValueError(f"must be at least {least}{above}")
