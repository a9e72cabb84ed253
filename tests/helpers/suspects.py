"""Asks a suspect once, and looks at it as a debugger would."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from dynamarks_tf.suspects import Suspect


def answers_of(suspect: Suspect, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The answers to one batch; the suspect is closed afterwards."""
    with contextlib.closing(suspect):
        return suspect.predict(batch)


def shown(thing: object, depth: int = 3) -> str:
    """Everything that printing an object shows, and its attributes if it has no `repr` of its own."""
    texts = [str(thing), repr(thing)]
    if depth and type(thing).__repr__ is object.__repr__:
        texts += [shown(value, depth - 1) for value in getattr(thing, "__dict__", {}).values()]
    return "\n".join(texts)
