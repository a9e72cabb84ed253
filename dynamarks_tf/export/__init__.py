"""Models for TensorFlow Serving and for edge devices.

Imports `watermark`, `_support` and `errors`; the local server, `attacks`, `demo` and `cli` may import it.
"""

from dynamarks_tf.export.saved_model import export_saved_model
from dynamarks_tf.export.tflite import export_tflite

__all__ = ["export_saved_model", "export_tflite"]
