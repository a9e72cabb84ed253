"""Suspects: one adapter for each place where a model under test can be.

Imports `_support` alone, never a key; `attacks`, `verification`, `audit`, `demo` and `cli` may import it.
"""

from dynamarks_tf.suspects.base import Suspect
from dynamarks_tf.suspects.locate import as_suspect

__all__ = ["Suspect", "as_suspect"]
