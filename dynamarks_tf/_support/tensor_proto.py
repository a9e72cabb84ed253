"""TensorProto, TensorFlow's tensor in messages, to NumPy: what it declares is checked before anything is decoded.

A message may leave trailing values out where they repeat the last one, so that a hundred bytes can declare any number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tensorflow.core.framework import tensor_pb2

Array = npt.NDArray[Any]

MOST_FILLED = 2**20  # values that stand for left-out ones in a logged row, and rows that hold nothing
_MOST_AXES = 32  # of NumPy 1
_STRING, _HALF, _BFLOAT16 = 7, 19, 14

# By the number of TensorFlow's type: the NumPy type, and the field of values, where they are not in one block of bytes.
_TYPES: dict[int, tuple[str, str]] = {
    1: ("float32", "float_val"),
    2: ("float64", "double_val"),
    3: ("int32", "int_val"),
    4: ("uint8", "int_val"),
    5: ("int16", "int_val"),
    6: ("int8", "int_val"),
    _STRING: ("object", "string_val"),
    8: ("complex64", "scomplex_val"),
    9: ("int64", "int64_val"),
    10: ("bool", "bool_val"),
    _BFLOAT16: ("bfloat16", "half_val"),
    17: ("uint16", "int_val"),
    18: ("complex128", "dcomplex_val"),
    _HALF: ("float16", "half_val"),
    22: ("uint32", "uint32_val"),
    23: ("uint64", "uint64_val"),
}


def read(proto: tensor_pb2.TensorProto, most_values: int) -> Array:
    """Reads a tensor. Text and bytes become `bytes` objects.

    Args:
        proto: the message.
        most_values: how many values it may declare.

    Raises:
        ValueError: it declares more, its shape is not fully known, or its block of bytes has another size.
    """
    shape = shape_of(proto)
    declared = math.prod(size or 1 for size in shape)
    if declared > most_values:
        raise ValueError(f"it declares the shape {_shown(shape)}, and at most {most_values:,} values are expected")
    return _filled(proto, shape)


def read_rows(proto: tensor_pb2.TensorProto) -> Array:
    """Reads the rows of a logged tensor. Rows that consist of left-out values alone are equal, and come once.

    Raises:
        ValueError: its shape is not fully known, or its block of bytes has another size.
    """
    shape = shape_of(proto)
    if not shape:
        return _filled(proto, shape)
    size = math.prod(shape[1:])
    if not size:
        return read(proto, MOST_FILLED)
    held = len(getattr(proto, _type_of(proto)[1]))
    if _is_block(proto) or held >= shape[0] * size:
        return _filled(proto, shape)
    if size - held % size > MOST_FILLED:
        raise ValueError(f"it declares the shape {_shown(shape)} and holds {held:,} values")
    rows = -(-held // size) + (size > 1 or not held)
    return _filled(proto, (min(shape[0], rows), *shape[1:]))


def shape_of(proto: tensor_pb2.TensorProto) -> tuple[int, ...]:
    """The shape that a tensor declares.

    Raises:
        ValueError: it is not fully known, or has too many axes.
    """
    declared = proto.tensor_shape
    if any(axis.size < 0 for axis in declared.dim):
        raise ValueError("the shape of a value must be fully known")
    if len(declared.dim) > _MOST_AXES:
        raise ValueError(f"it has {len(declared.dim)} axes")
    return tuple(axis.size for axis in declared.dim)


def _filled(proto: tensor_pb2.TensorProto, shape: tuple[int, ...]) -> Array:
    """A tensor of this many values, which are known to be few enough."""
    dtype, field = _type_of(proto)
    count = math.prod(shape)
    if _is_block(proto):
        if len(proto.tensor_content) != count * dtype.itemsize:
            raise ValueError(
                f"it holds {len(proto.tensor_content):,} bytes; {_shown(shape)} values of {dtype} take "
                f"{count * dtype.itemsize:,}"
            )
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    # As TensorFlow reads it: surplus values are ignored, and where there is none, all are zero or empty.
    values = _values(getattr(proto, field)[: 2 * count if dtype.kind == "c" else count], dtype)
    if len(values) < count:
        last = values[-1:] if len(values) else np.array([b""] if dtype.kind == "O" else [0], dtype)
        values = np.concatenate([values, np.repeat(last, count - len(values))])
    return values.reshape(shape)


def _values(held: Any, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "O":
        texts = np.empty(len(held), object)
        texts[:] = list(held)
        return texts
    if dtype.kind == "c":  # real and imaginary parts by turns
        return np.array(held, dtype.type(0).real.dtype).view(dtype)
    if dtype.name in ("float16", "bfloat16"):
        return np.array(held, np.int64).astype(np.uint16).view(dtype)
    if dtype.kind in "iu" and dtype.itemsize < 4:
        return np.array(held, np.int64).astype(dtype)  # wraps around, as in TensorFlow
    return np.array(held, dtype)


def _is_block(proto: tensor_pb2.TensorProto) -> bool:
    return bool(proto.tensor_content) and proto.dtype != _STRING


def _type_of(proto: tensor_pb2.TensorProto) -> tuple[np.dtype[Any], str]:
    if proto.dtype not in _TYPES:
        raise ValueError(f"values of TensorFlow's type {proto.dtype} are not accepted")
    name, field = _TYPES[proto.dtype]
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16), field
    return np.dtype(name), field


def _shown(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
