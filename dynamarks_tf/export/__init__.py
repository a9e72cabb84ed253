"""Models for TensorFlow Serving."""

from dynamarks_tf.export.saved_model import export_saved_model

__all__ = ["export_saved_model"]
