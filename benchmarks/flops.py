"""Counts floating-point operations: of a JAX program, and those that a model needs."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from block_recurrent import ModelConfig
from block_recurrent.model.transformer import abstract_model

# Published FLOP/s of dense bfloat16 matrix products, by `jax.Device.device_kind`.
PEAK = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
}


def peak(device_kind: str) -> float | None:
    """Peak FLOP/s of a device; None if it is not in the table."""
    return next((flops for name, flops in PEAK.items() if device_kind.startswith(name)), None)


def matrix_flops(jaxpr) -> int:
    """FLOPs of the matrix products, 2 per multiplication; those in loops count per iteration."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            result = math.prod(equation.outvars[0].aval.shape)
            total += 2 * result * math.prod(shape[axis] for axis in contracted)
        times = 1
        if equation.primitive.name == "scan":
            times = equation.params["length"]
        elif equation.primitive.name == "shard_map":  # its shapes are per device
            shape = equation.params["mesh"].shape
            times = math.prod(shape[axis] for axis in equation.params["newly_manual_axes"])
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * matrix_flops(inner)
    return total


def model_flops(config: ModelConfig, segment_length: int) -> float:
    """FLOPs per token of a training step that the model needs, however it is computed.

    Counts the matrix products of the forward pass three times, since the gradient has two for each
    of them. Attention counts with the W keys that a query sees. The plain implementation computes
    logits for 2W keys and masks half of them; those 4·W·H·K FLOPs per token and layer do not count.
    """
    config = dataclasses.replace(config, attention_kernel="xla", remat="none")
    graphdef, params = abstract_model(config)
    tokens = jax.ShapeDtypeStruct((1, segment_length), jnp.int32)

    def forward(params, tokens):
        model = nnx.merge(graphdef, params)
        return model(tokens, model.initial_state(1))[0]

    computed = matrix_flops(jax.make_jaxpr(forward)(params, tokens).jaxpr)
    width = config.num_heads * config.head_size
    hidden = 4 * config.window_length * width * config.num_layers * segment_length
    return 3 * (computed - hidden) / segment_length
