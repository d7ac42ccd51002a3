"""Makes the C library keep freed memory for later allocations."""

import ctypes

import jax

# Parameters of glibc's mallopt.
ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1


def keep_freed_memory(*, of_all_threads: bool = False):
    """Makes glibc keep freed memory instead of returning it to Linux. No effect elsewhere.

    On a CPU, XLA allocates the temporary memory of a step and frees it after the step. That can be
    a gigabyte: a quarter of a million pages, which Linux would otherwise map anew at every step.
    In exchange, the memory use of the process never falls below its peak.

    glibc can keep large allocations only in the main thread. This function therefore also makes JAX
    run each step in the thread that calls it. Call it in the main thread, before JAX looks for
    devices.

    Args:
      of_all_threads: makes all threads share the main thread's memory. Threads that allocate at the
        same time, as when XLA compiles, then wait for each other. Threads that are already running
        are not affected.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, -1)  # never
        if of_all_threads:
            library.mallopt(ARENA_MAX, 1)
