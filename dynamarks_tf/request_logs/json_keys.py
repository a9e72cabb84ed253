"""JSON as model servers in C++ understand it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

MOST_NESTED = 500  # levels; leaves Python's parser, which takes 1,000, room for the calls around it

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` that keeps the first of several values of one key.

    RapidJSON, which TensorFlow Serving and Triton use, finds the first; Python keeps the last. A reader that kept the
    last would see inputs that the model never answered.
    """
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else dict(reversed(pairs))


def check_nesting(text: str) -> None:
    """Checks how deep a text is nested. Python's parser has a limit too, which depends on how deep its caller stands.

    With that limit alone, a client could nest a request so that one pass over a log reads it and the next does not.

    Raises:
        ValueError: it is nested too deep.
    """
    if text.count("[") + text.count("{") <= MOST_NESTED:
        return
    signs = np.frombuffer(_STRING.sub("", text).encode("ascii", "replace"), np.uint8)
    steps = np.isin(signs, [ord("["), ord("{")]).astype(np.int8) - np.isin(signs, [ord("]"), ord("}")])
    if np.cumsum(steps, dtype=np.int64).max(initial=0) > MOST_NESTED:
        raise ValueError(f"it is nested more than {MOST_NESTED} levels deep")
