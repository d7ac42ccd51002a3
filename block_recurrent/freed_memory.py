"""Makes the C library keep freed memory for later allocations."""

import ctypes
import importlib.util
import os
import platform

import jax

SWITCH = "BLOCK_RECURRENT_KEEP_MEMORY"
ACCELERATORS = ("jax_plugins", "libtpu")  # packages that bring JAX's support for GPUs and TPUs

# Parameters of glibc's mallopt.
ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1


def keep_freed_memory(*, of_all_threads: bool = False):
    """Makes glibc keep freed memory instead of returning it to Linux. No effect elsewhere.

    On a CPU, XLA allocates the temporary memory of a step and frees it after the step. That can be
    a gigabyte: a quarter of a million pages, which Linux would otherwise map anew at every step.
    In exchange, the memory use of the process never falls below its peak. With the environment
    variable BLOCK_RECURRENT_KEEP_MEMORY=0, this function does nothing.

    glibc can keep large allocations only in the main thread. This function therefore also makes JAX
    run each step in the thread that calls it. Call it in the main thread, before JAX looks for
    devices.

    Args:
      of_all_threads: makes all threads share the main thread's memory. Threads that allocate at the
        same time, as when XLA compiles, then wait for each other. Threads that are already running
        are not affected.
    """
    if os.environ.get(SWITCH) == "0" or platform.libc_ver()[0] != "glibc":
        return
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    library = ctypes.CDLL(None)
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, -1)  # never
    if of_all_threads:
        library.mallopt(ARENA_MAX, 1)


def keep_freed_memory_on_cpu():
    """`keep_freed_memory`, unless JAX may compute on a GPU or TPU. Importing the package does this.

    JAX's devices are not known yet, and asking for them would start them. So this goes by
    JAX_PLATFORMS and, without it, by whether a package for a GPU or TPU is installed.
    """
    platforms = jax.config.jax_platforms
    if platforms:
        only_cpu = platforms == "cpu"
    else:
        only_cpu = not any(map(importlib.util.find_spec, ACCELERATORS))
    if only_cpu:
        keep_freed_memory()
