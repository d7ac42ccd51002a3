"""Every test runs with the shapes of all signatures checked, and compiles nothing twice."""

import os
import tempfile

from jaxtyping import install_import_hook

install_import_hook("block_recurrent", "beartype.beartype")

# Tests, and the processes they start, compile the same few tiny models again and again.
COMPILED = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", COMPILED.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
