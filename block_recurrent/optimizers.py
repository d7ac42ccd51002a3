"""Optimizers and learning-rate schedules (optax), chosen by `OptimizerConfig`."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    name: Literal["adafactor", "adamw"] = "adafactor"
    learning_rate: float = 0.01
