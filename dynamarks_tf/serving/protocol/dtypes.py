"""The numbers of TensorFlow's dtypes, without TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_NAMES = {
    1: "float",
    2: "double",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    7: "string",
    8: "complex64",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    18: "complex128",
    19: "half",
    22: "uint32",
    23: "uint64",
}
_NUMBERS = {name: number for number, name in _NAMES.items()}
_NUMPY = {"float32": "float", "float64": "double", "float16": "half", "object": "string"}

DT_FLOAT, DT_DOUBLE, DT_STRING, DT_BOOL = (_NUMBERS[name] for name in ("float", "double", "string", "bool"))
DT_INT8, DT_INT16, DT_INT32, DT_INT64 = (_NUMBERS[name] for name in ("int8", "int16", "int32", "int64"))
DT_UINT8, DT_UINT32, DT_UINT64 = (_NUMBERS[name] for name in ("uint8", "uint32", "uint64"))


def name_of(dtype: int) -> str:
    """Returns the name TensorFlow's error texts use: "float", "int64", "bool", "string"."""
    return _NAMES.get(dtype, "invalid")


def number_of(array: npt.NDArray[Any]) -> int:
    """Returns the number of the dtype of `array`, 0 if it has none; text and `bytes` objects are strings."""
    name = array.dtype.name if array.dtype.kind not in "SU" else "object"
    return _NUMBERS.get(_NUMPY.get(name, name), 0)


def parse(name: str) -> int:
    """Returns the number for a name such as "DT_FLOAT", 0 if there is none."""
    return _NUMBERS.get(name.removeprefix("DT_").lower(), 0)


def fixed(array: npt.NDArray[Any]) -> bytes:
    """Returns the values in one block of bytes, as messages hold them."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
