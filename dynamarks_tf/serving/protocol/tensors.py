"""TensorProto, the tensor of TensorFlow Serving's messages, to and from NumPy."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from dynamarks_tf._support import tensor_proto

DEFAULT_SIGNATURE = "serving_default"
Array = npt.NDArray[Any]

LARGEST_FILL = 2**22  # values that one value in a message may stand for

# The typed field of TensorProto that carries each dtype.
_FIELDS = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT8: "int_val",
    types_pb2.DT_INT16: "int_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_UINT8: "int_val",
    types_pb2.DT_UINT16: "int_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
}


def dtype_of(array: Array) -> int:
    """Returns the number of TensorFlow's dtype for `array`; arrays of `bytes` objects are strings."""
    return int(tf.as_dtype(array.dtype).as_datatype_enum)


def dtype_name(dtype: int) -> str:
    """Returns the name TensorFlow's error texts use: "float", "int64", "bool", "string"."""
    return str(types_pb2.DataType.Name(dtype)).removeprefix("DT_").lower()


def to_proto(array: Array) -> tensor_pb2.TensorProto:
    """Writes `array` value by value into the typed field of its dtype, as TensorFlow Serving does in its answers.

    Dtypes without such a field of plain numbers (half, bfloat16, complex) are packed into `tensor_content`.
    """
    dtype = dtype_of(array)
    field = _FIELDS.get(dtype)
    if field is None:
        return to_packed_proto(array)
    proto = tensor_pb2.TensorProto(dtype=dtype, tensor_shape=tf.TensorShape(array.shape).as_proto())
    getattr(proto, field).extend(array.ravel().tolist())
    return proto


def to_packed_proto(array: Array) -> tensor_pb2.TensorProto:
    """Writes `array` in one block of bytes, as clients do because it is faster; strings are written value by value."""
    return tf.make_tensor_proto(array)


def from_proto(proto: tensor_pb2.TensorProto) -> Array:
    """Reads a tensor in either form.

    Raises:
        ValueError: the shape is not fully known, or far too large for the message; or a block of bytes does not fill
            it; or the dtype has no values.
    """
    return tensor_proto.read(proto, max(LARGEST_FILL, proto.ByteSize()))
