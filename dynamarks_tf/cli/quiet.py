"""Loads TensorFlow without its start-up notes on the screen."""

from __future__ import annotations

import os
import sys

from dynamarks_tf._stderr import silent_stderr


def load_tensorflow() -> None:
    """Imports TensorFlow and finds its devices while the process's standard error goes nowhere.

    TensorFlow's libraries write notes about processor and GPU before any Python setting can stop them. Errors are
    exceptions and are not lost. Does nothing if TensorFlow is loaded already. Its advice about functions that are
    traced often is dropped: every model is a function of its own here, and is traced once.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()
        tf.constant(0)
        tf.get_logger().addFilter(lambda record: "tf.function retracing" not in record.getMessage())
