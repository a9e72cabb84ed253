"""Text and bytes in the JSON of TensorFlow Serving: strings, and objects such as `{"b64": "SGk="}`."""

from __future__ import annotations

import base64
import re
from itertools import chain
from typing import Any

import numpy as np

from dynamarks_tf.request_logs.entries import Array
from dynamarks_tf.request_logs.rapid_json import Repeated

_SPACE = re.compile(r"[ \t\n\v\f\r]+")


def is_base64(value: Any) -> bool:
    """Whether a JSON value is an object that stands for bytes."""
    if not isinstance(value, dict) or len(value) != 1 or isinstance(value, Repeated):
        return False
    return isinstance(value.get("b64"), str)


def to_bytes(value: Any) -> bytes:
    """Returns the bytes that a JSON string or a base64 object stands for.

    Raises:
        ValueError: it is neither, or no base64.
    """
    if isinstance(value, str):
        return value.encode("utf-8", errors="surrogateescape")
    if not is_base64(value):
        raise ValueError("text and numbers are mixed")
    text = _SPACE.sub("", value["b64"])
    digits = text.rstrip("=.")  # TensorFlow Serving takes both as padding, or none
    padding = "=" * (-len(digits) % 4)
    if len(digits) != len(text) and len(text) - len(digits) != len(padding):
        raise ValueError("its base64 has the wrong padding")
    return base64.b64decode(digits + padding, validate=True)


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
