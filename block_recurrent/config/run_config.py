"""The configuration of a run: from gin files, and back to gin text."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from block_recurrent.config.data_options import DataConfig, PrepareConfig
from block_recurrent.config.device_options import DistributedConfig, MeshConfig
from block_recurrent.config.gin_files import (
    COMMAND_LINE,
    Binding,
    evaluate,
    macros_in,
    read_bindings,
)
from block_recurrent.config.train_options import (
    OptimizerConfig,
    TrainConfig,
    WatchConfig,
    check_segment,
)
from block_recurrent.errors import UserError
from block_recurrent.fields import check_field, checked, field_kinds, nearest
from block_recurrent.model.config import ModelConfig


@checked
@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The configuration of a run. `optimizer.decay_steps` defaults to `train.num_steps`.

    Raises:
      UserError: parts do not fit each other.
    """

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    mesh: MeshConfig = MeshConfig()
    distributed: DistributedConfig = DistributedConfig()
    watch: WatchConfig = WatchConfig()

    def __post_init__(self):
        check_segment(
            self.train.segment_length,
            self.model.window_length,
            "train.segment_length",
            "BlockRecurrentTransformer.window_length",
        )
        if self.mesh.sequence > 1:
            check_parts(self.mesh, self.train.segment_length, self.model)
        if self.optimizer.ends and self.optimizer.decay_steps is None:
            optimizer = dataclasses.replace(self.optimizer, decay_steps=self.train.num_steps)
            object.__setattr__(self, "optimizer", optimizer)


def check_parts(mesh: MeshConfig, segment_length: int, model: ModelConfig):
    """Checks that a model can read segments in parts.

    Raises:
      UserError: the parts are no whole blocks, the model needs whole segments, or its heads are
        split too.
    """
    parts, window = mesh.sequence, model.window_length
    if mesh.tensor > 1:
        raise UserError(
            f"mesh.sequence = {parts} does not work with mesh.tensor = {mesh.tensor}: set one of "
            "them to 1"
        )
    if segment_length % (parts * window):
        raise UserError(
            f"train.segment_length = {segment_length} does not divide over mesh.sequence = {parts} "
            f"into blocks of window_length = {window}: use a multiple of {parts * window}"
        )
    reasons = {
        "layer = 'lstm'": model.layer == "lstm",
        "attention = 'full'": model.attention == "full",
        "feedback = True": model.feedback,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UserError(
                f"mesh.sequence = {parts} does not work with BlockRecurrentTransformer.{reason}, "
                "which needs whole segments: set mesh.sequence = 1"
            )


# Sections of a gin file, and the fields of RunConfig that they set: the same names except one.
SECTIONS = {"BlockRecurrentTransformer": "model"}
SECTIONS |= {field: field for field in field_kinds(RunConfig) if field != "model"}
CLASSES = {section: field_kinds(RunConfig)[field] for section, field in SECTIONS.items()}
CLASSES["prepare"] = PrepareConfig  # allowed in every gin file, but not part of a run
PARAMETERS = {section: list(field_kinds(cls)) for section, cls in CLASSES.items()}


def load(gin_files: Sequence[str], bindings: Sequence[str]) -> RunConfig:
    """Loads a configuration from gin files and bindings; later ones override earlier ones.

    Args:
      gin_files: looked up in the current folder, then among those shipped with the package. An
        ``include`` is also looked up beside the file that contains it.
      bindings: such as ``train.num_steps = 100``.

    Raises:
      UserError: a file is missing, or a name or value in it is wrong.
    """
    found = _read(gin_files, bindings)
    return RunConfig(**{field: _build(section, found) for section, field in SECTIONS.items()})


def load_prepare(
    gin_files: Sequence[str], bindings: Sequence[str]
) -> tuple[PrepareConfig, DataConfig]:
    """Loads the options of `prepare_data` from gin files and bindings; see `load`.

    Raises:
      UserError: see `load`. Also if a gin file sets `prepare.module`, which only a binding may.
    """
    found = _read(gin_files, bindings)
    module = found.get(("prepare", "module"))
    if module and module.place != COMMAND_LINE:
        raise UserError(
            f"{module.place}: a gin file may not set prepare.module, which names code to run: "
            f'remove it, and pass --gin_bindings="prepare.module = {module.value!r}" if you '
            "trust it"
        )
    return _build("prepare", found), _build("data", found)


def to_gin(config: RunConfig) -> str:
    """All parameters as gin text, from which `load` restores the same configuration."""
    lines = [
        "# The complete configuration of a run. Repeat the run with",
        "#   python -m block_recurrent.train --gin_file=(this file)",
    ]
    above = None
    for name, value in all_values(config).items():
        section = name.partition(".")[0]
        if section != above:
            lines.append("")
        lines.append(f"{name} = {value!r}")
        above = section
    return "\n".join(lines) + "\n"


def all_values(config: RunConfig) -> dict[str, Any]:
    """The value of every parameter, such as "train.seed": 0."""
    return {
        f"{section}.{name}": getattr(getattr(config, field), name)
        for section, field in SECTIONS.items()
        for name in PARAMETERS[section]
    }


def _read(gin_files: Sequence[str], bindings: Sequence[str]) -> dict[tuple[str, str], Binding]:
    """(section, parameter) → its last binding, with macros evaluated. Checks all names."""
    found = {
        (binding.section, binding.name): binding for binding in read_bindings(gin_files, bindings)
    }
    parameters = {key: binding for key, binding in found.items() if binding.section}
    macros = {binding.name: binding for binding in found.values() if not binding.section}
    for binding in parameters.values():
        _check_name(binding)
    used = {name for binding in found.values() for name in macros_in(binding.value)}
    evaluated = {key: evaluate(binding, macros) for key, binding in found.items()}
    for name in macros.keys() - used:
        _check_unused(macros[name], used)
    return {key: evaluated[key] for key in parameters}


def _build(section: str, found: Mapping[tuple[str, str], Binding]) -> Any:
    """Builds one part of the configuration from its bindings."""
    values = {}
    for binding in found.values():
        if binding.section == section:
            try:
                values[binding.name] = check_field(CLASSES[section], binding.name, binding.value)
            except UserError as error:
                raise UserError(f"{binding.place}: {section}.{error}") from error
    return CLASSES[section](**values)


def _check_name(binding: Binding):
    """Raises UserError, with the nearest name, if no parameter has this name."""
    section, name, place = binding.section, binding.name, binding.place
    if section not in PARAMETERS:
        close = nearest(section, PARAMETERS)
        hint = f"did you mean {close}?" if close else f"choose from {', '.join(PARAMETERS)}"
        raise UserError(f"{place}: nothing is called '{section}': {hint}")
    if name not in PARAMETERS[section]:
        close = nearest(name, PARAMETERS[section])
        meant = _parameter_called(name) or (close and f"{section}.{close}")
        others = ", ".join(PARAMETERS[section])
        hint = f"did you mean {meant}?" if meant else f"choose from {others}"
        raise UserError(f"{place}: {section} has no parameter '{name}': {hint}")


def _check_unused(macro: Binding, used: Collection[str]):
    """Raises UserError if an unused macro is a misspelt parameter or macro.

    An unused macro can be intended: files in gin/scale set macros that only some variants use.
    """
    if meant := _parameter_called(macro.name):
        raise UserError(f"{macro.place}: '{macro.name}' has no section: did you mean {meant}?")
    if macro.place == COMMAND_LINE:
        close = nearest(macro.name, used)
        hint = f"did you mean {close}?" if close else "write section.parameter = value"
        raise UserError(f"{macro.place}: nothing uses the macro {macro.name}: {hint}")


def _parameter_called(name: str) -> str | None:
    """The parameter of that name, with its section."""
    matches = (f"{section}.{name}" for section in PARAMETERS if name in PARAMETERS[section])
    return next(matches, None)
