"""JSON as model servers in C++ understand it."""

from __future__ import annotations

from typing import Any


def first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` that keeps the first of several values of one key.

    RapidJSON, which TensorFlow Serving and Triton use, finds the first; Python keeps the last. A reader that kept the
    last would see inputs that the model never answered.
    """
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else dict(reversed(pairs))
