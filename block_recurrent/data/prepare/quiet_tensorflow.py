"""Imports TensorFlow for reading data, without accelerators and log messages."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

from block_recurrent.errors import UserError


def import_tensorflow():
    """Imports TensorFlow and seqio, and hides the accelerators from TensorFlow.

    Raises:
      UserError: TensorFlow or seqio is not installed.
    """
    try:
        with quiet():
            import seqio  # noqa: F401
            import tensorflow as tf

            for kind in ("GPU", "TPU"):
                with contextlib.suppress(RuntimeError):  # already initialised; harmless
                    tf.config.set_visible_devices([], kind)
    except ImportError as error:
        raise UserError(
            f"prepare_data needs TensorFlow and seqio ({error}): install this package with its "
            "extra [data], as in pip install -e '.[data]'"
        ) from error
    tf.get_logger().setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what C++ code writes to standard error, unless an unexpected exception is raised.

    Messages from Python are still shown. (Some parts of TensorFlow ignore its log level.)
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as hidden, os.fdopen(os.dup(2), "w", buffering=1) as shown:
        os.dup2(hidden.fileno(), 2)
        try:
            with contextlib.redirect_stderr(shown):
                yield
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException:
            hidden.seek(0)
            shown.write(hidden.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(shown.fileno(), 2)
