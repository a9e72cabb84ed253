"""Text and bytes as inputs. Their one form inside the package is a NumPy array of objects, each of them `bytes`.

NumPy has many forms for them: `S` and `U` of a fixed width, `StringDType`, and objects. `bytes` in an object array is
what TensorFlow gives and takes; it keeps every byte and has no width. Text becomes UTF-8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_KINDS = "OSUT"  # objects; bytes and text of a fixed width; text of any width


def may_be_text(array: Array) -> bool:
    """Whether an array is of a type that can hold text or bytes."""
    return array.dtype.kind in _KINDS


def as_bytes(array: Array, *, errors: str = "strict") -> Array:
    """Brings text or bytes into the form of this package.

    Args:
        array: `str` or `bytes` in any form of NumPy, of any shape.
        errors: what becomes of half a surrogate pair, which UTF-8 does not have; as for `str.encode`.

    Returns:
        An array of `bytes` objects of the same shape.

    Raises:
        ValueError: it holds something else.
    """
    found = np.empty(array.shape, object)
    flat = found.ravel()  # a view: `found` is contiguous
    for index, value in enumerate(array.ravel().tolist()):
        if isinstance(value, str):
            try:
                flat[index] = value.encode("utf-8", errors)
            except UnicodeEncodeError as error:
                raise ValueError("a text holds half a surrogate pair, which cannot be written in UTF-8") from error
        elif isinstance(value, bytes):
            flat[index] = bytes(value)
        else:
            raise ValueError(f"it holds {type(value).__name__} objects; expected numbers, or only str or bytes")
    return found


def decoded(array: Array) -> Array:
    """Turns bytes in the form of this package into `str` objects.

    Raises:
        ValueError: some are not UTF-8.
    """
    found = np.empty(array.shape, object)
    flat = found.ravel()
    for index, value in enumerate(as_bytes(array).ravel().tolist()):
        try:
            flat[index] = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"value {index} is bytes that are not UTF-8") from error
    return found


def packed(array: Array) -> tuple[Array, Array]:
    """Bytes in the form of this package as two arrays of numbers, which can be written without pickling objects.

    Returns:
        All bytes one after the other, uint8; and the length of each value, int64 of the shape of `array`.
    """
    values = array.ravel().tolist()
    lengths = np.array([len(value) for value in values], np.int64).reshape(array.shape)
    return np.frombuffer(b"".join(values), np.uint8), lengths


def unpacked(data: Array, lengths: Array) -> Array:
    """What was `packed`.

    Raises:
        ValueError: the two do not go together.
    """
    sizes = lengths.ravel().tolist() if lengths.dtype == np.int64 else [-1]
    if data.dtype != np.uint8 or data.ndim != 1 or min(sizes, default=0) < 0 or sum(sizes) != len(data):
        raise ValueError("the bytes and their lengths do not go together")
    found = np.empty(lengths.shape, object)
    flat, content, start = found.ravel(), data.tobytes(), 0
    for index, size in enumerate(sizes):
        flat[index] = content[start : start + size]
        start += size
    return found
