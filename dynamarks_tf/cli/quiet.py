"""Loads TensorFlow without its start-up notes on the screen."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


def load_tensorflow() -> None:
    """Imports TensorFlow and finds its devices while the process's standard error goes nowhere.

    TensorFlow's libraries write notes about processor and GPU before any Python setting can stop them. Errors are
    exceptions and are not lost. Does nothing if TensorFlow is loaded already. Its advice about functions that are
    traced often is dropped: every model is a function of its own here, and is traced once.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _silent_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()
        tf.constant(0)
        tf.get_logger().addFilter(lambda record: "tf.function retracing" not in record.getMessage())


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Sends what is written to file descriptor 2, by C++ too, nowhere."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
