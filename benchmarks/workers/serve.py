"""The worker's side of the protocol: one JSON object per line, over standard input and output.

Uses only the standard library, since it runs in the Python of the program that is measured.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable

# Standard output is for answers. What libraries print there goes to standard error.
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)


def arguments() -> dict:
    """The spec of what to build: the JSON object on the command line."""
    return json.loads(sys.argv[1])


def serve(
    measures: dict,
    device_peak: Callable[[], int | None] = lambda: None,
    warm_up: bool = True,
    **facts,
) -> None:
    """Sends `facts`, then runs the measure that each input line names and sends what it took.

    An answer has the seconds by the wall clock, the processor seconds over all cores, which a busy
    machine disturbs least, and the peak memory so far, beside what the measure returns.

    Args:
      measures: functions by name, each of which returns when its work is done: None, or a dict.
      device_peak: returns the peak of the device's memory in bytes; None: use the process's peak.
      warm_up: whether to call each measure once at first.
      facts: to send first, beside the seconds of the first call of each measure.
    """
    first = {}
    for name, measure in measures.items() if warm_up else ():
        start = time.perf_counter()
        measure()
        first[name] = time.perf_counter() - start
    print(json.dumps({"first_call_seconds": first, **facts}), file=ANSWERS)
    for line in sys.stdin:
        start, cpu_start = time.perf_counter(), time.process_time()
        results = measures[line.strip()]() or {}
        cpu, wall = time.process_time() - cpu_start, time.perf_counter() - start
        peak = device_peak() or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = {"seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak}
        print(json.dumps(answer | results), file=ANSWERS)
