"""Text and bytes in the JSON of TensorFlow Serving: strings, and objects such as `{"b64": "SGk="}`."""

from __future__ import annotations

import base64
from itertools import chain
from typing import Any

import numpy as np

from dynamarks_tf.request_logs.entries import Array


def is_base64(value: Any) -> bool:
    """Whether a JSON value is an object that stands for bytes."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def to_bytes(value: Any) -> bytes:
    """Returns the bytes that a JSON string or a base64 object stands for.

    Raises:
        ValueError: it is neither, or no base64.
    """
    if isinstance(value, str):
        return value.encode("utf-8", errors="surrogateescape")
    if not is_base64(value):
        raise ValueError("text and numbers are mixed")
    text = "".join(value["b64"].split())
    return base64.b64decode(text + "=" * (-len(text) % 4 if not text.endswith("=") else 0), validate=True)


def to_array(value: Any, dtype: str) -> Array:
    """Turns nested lists into an array: of `bytes` objects where they hold text or bytes, otherwise of `dtype`.

    Raises:
        ValueError: the lists are uneven, or hold text beside numbers.
        TypeError: they hold something else.
        OverflowError: a number is too large.
    """
    shape, items = [], [value]
    while items and all(isinstance(item, list) for item in items):
        shape.append(len(items[0]))
        if any(len(item) != shape[-1] for item in items):
            raise ValueError("lists of different lengths")
        items = list(chain.from_iterable(items))
    if not any(isinstance(item, (str, dict)) for item in items):
        with np.errstate(over="ignore", invalid="ignore"):  # a number too large for float32 becomes infinity
            return np.array(value, dtype)
    found = np.empty(len(items), object)
    found[:] = [to_bytes(item) for item in items]
    return found.reshape(shape)
