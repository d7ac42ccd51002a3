"""What the compiled step needs of a device's memory, known before it runs."""

import os

import jax

from block_recurrent.errors import UserError, first_line

FIX = (
    "set a smaller train.batch_size or train.segment_length, or BlockRecurrentTransformer.remat = "
    "'layer', or split the parameters over more devices (mesh.fsdp)"
)


def compiler_options(remat: str, platform: str) -> dict[str, str]:
    """For `jax.jit` of a training step.

    On a CPU XLA computes again as soon as it can, and keeps, what `remat` saves, until it is told
    to go by memory.
    """
    if platform == "cpu" and remat != "none":
        return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    return {}


def compile_to_fit(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """The compiled function. Raises UserError where the compiler sees that memory is too small."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:  # of a TPU's compiler; others let it come to that
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        message = f"a step needs more memory than a device has ({first_line(error)}): {FIX}"
        raise UserError(message) from error


def step_memory_line(compiled: jax.stages.Compiled, device: jax.Device) -> str:
    """Bytes that the step needs on a device, and the device has; a warning if they are too few."""
    needed, limit = step_memory(compiled), device_memory(device)
    line = f"memory {size(needed)} a device in a step, activations included"
    if limit is None:
        return line
    line += f", of {size(limit)}"
    return f"{line}\nwarning: this is more than there is: {FIX}" if needed > limit else line


def step_memory(compiled: jax.stages.Compiled) -> int:
    """Bytes on a device: arguments, temporaries, and results that take no argument's place."""
    found = compiled.memory_analysis()
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + found.temp_size_in_bytes + results


def device_memory(device: jax.Device) -> int | None:
    """Bytes that JAX may use of a device: of a CPU its share of the machine's. None: unknown."""
    stats = device.memory_stats() or {}
    if device.platform == "cpu":
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return machine // jax.local_device_count()
    return stats.get("bytes_limit")


def size(number: int) -> str:
    """In MiB, or in GiB from one on."""
    return f"{number / 2**30:,.2f} GiB" if number >= 2**30 else f"{number / 2**20:,.2f} MiB"
