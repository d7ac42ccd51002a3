"""Every test runs with the shapes of all signatures checked, and compiles nothing twice."""

import os
import signal
import tempfile

import pytest
from jaxtyping import install_import_hook

install_import_hook("block_recurrent", "beartype.beartype")

# What a script starts in the background ignores Ctrl-C, and so would all that tests start there.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests, and the processes they start, compile the same few tiny models again and again. Those of
# pytest-xdist are started by one that has read this, and so share its folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


@pytest.fixture(scope="module")
def quick_to_compile():
    """Without LLVM's optimizer, in half the time: where it matters what is computed, not how."""
    import jax  # once it is said where to keep what is compiled

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small folder of text."""
    from corpus import write_corpus  # once the shapes of what it imports are checked

    return write_corpus(tmp_path_factory.mktemp("corpus"))
