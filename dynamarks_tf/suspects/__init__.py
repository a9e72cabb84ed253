"""Suspects: one adapter for each place where a model to be tested can be."""

from dynamarks_tf.suspects.base import Suspect
from dynamarks_tf.suspects.locate import as_suspect

__all__ = ["Suspect", "as_suspect"]
