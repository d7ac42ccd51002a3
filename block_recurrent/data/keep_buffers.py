"""The C library keeps large buffers that are freed, for the next that are asked for."""

import ctypes
import ctypes.util

# glibc's mallopt: which parameter, and its value.
ARENA_MAX = -8, 1
MMAP_THRESHOLD = -3, 2**25
TRIM_THRESHOLD = -1, 2**30


def keep_buffers():
    """Has glibc keep buffers of up to 32 MiB; does nothing elsewhere.

    Or every buffer of a MiB would be of new pages, which takes half of the time of preparing bytes.
    TensorFlow sets the opposite whenever it makes a dataset of a generator, so call it after that.
    """
    library = ctypes.CDLL(ctypes.util.find_library("c"))
    if hasattr(library, "mallopt"):
        for parameter in (ARENA_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD):
            library.mallopt(*parameter)
