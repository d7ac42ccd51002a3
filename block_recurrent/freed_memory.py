"""The C library keeps memory that is freed, for what is asked for next."""

import ctypes

import jax

# glibc's names for what mallopt sets.
ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1


def keep_freed_memory(*, of_all_threads: bool = False):
    """Has glibc keep what is freed, where Linux would map each page of it anew; elsewhere nothing.

    On a CPU, XLA asks for the temporary memory of a step and frees it after the step: a gigabyte, a
    quarter of a million pages. The process then holds as much as it ever held at once.

    glibc keeps large pieces for the main thread alone, so JAX runs a step in the thread that calls
    it. Call this there, before JAX looks for devices.

    Args:
      of_all_threads: they share the main thread's memory. Where many allocate at once, as when XLA
        compiles, they wait for each other. Threads that run already stay as they are.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, -1)  # never
        if of_all_threads:
            library.mallopt(ARENA_MAX, 1)
