"""The far end of a worker: one JSON object a line, over standard input and output.

Standard library only, for it runs in the Python of whichever program is measured.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable

# Standard output is for answers; what a library prints there goes to standard error.
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)


def arguments() -> dict:
    """What the worker is to build: the JSON object on the command line."""
    return json.loads(sys.argv[1])


def serve(measures: dict, device_peak: Callable[[], int | None] = lambda: None, **facts) -> None:
    """Answers each line that names a measure with the seconds it took; `facts` go out first.

    Also the seconds of processor time, over all cores: what a busy machine disturbs least; and the
    most memory held until then: what `device_peak` says, or else that of the process.

    Each of `measures` is a function that ends when its work has ended.
    """
    first = {}
    for name, measure in measures.items():
        start = time.perf_counter()
        measure()
        first[name] = time.perf_counter() - start
    print(json.dumps({"first_call_seconds": first, **facts}), file=ANSWERS)
    for line in sys.stdin:
        start, cpu_start = time.perf_counter(), time.process_time()
        measures[line.strip()]()
        cpu, wall = time.process_time() - cpu_start, time.perf_counter() - start
        peak = device_peak() or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = {"seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak}
        print(json.dumps(answer), file=ANSWERS)
