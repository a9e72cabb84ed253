"""The JSON of TensorFlow Serving's REST interface, to and from tensors.

A request holds its tensors in rows, `{"instances": [...]}`, with one element per example, or in columns,
`{"inputs": ...}`, with one whole tensor per name. The answer has the same layout. The model's signature decides the
dtype of each number. NumPy converts nested lists in one step. If that is impossible, they are walked value by value, to
report the position of the fault.
"""

from __future__ import annotations

import base64
import enum
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from itertools import chain
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support.json_bounds import check_json
from dynamarks_tf.request_logs import rapid_json
from dynamarks_tf.request_logs.json_text import is_base64, to_bytes
from dynamarks_tf.serving.protocol import dtypes
from dynamarks_tf.serving.protocol.limits import MOST_ROWS
from dynamarks_tf.serving.protocol.status import Code, StatusError, invalid

MOST_VALUES = 2**23  # in a request, each number and list counted
QUOTE_LIMIT = 256  # characters of a JSON value that an error text repeats
DEEPEST = 32  # axes; NumPy 1 has no more
BYTES_SUFFIX = "_bytes"  # outputs with such a name are written in base64

_INT32 = (-(2**31), 2**31 - 1)
_FLOATS: dict[int, type[np.floating[Any]]] = {dtypes.DT_FLOAT: np.float32, dtypes.DT_DOUBLE: np.float64}
# The NumPy type and the range accepted. As in TensorFlow Serving, 8 and 16 bits take any int32 and wrap around.
_INTEGERS: dict[int, tuple[type[np.integer[Any]], int, int]] = {
    dtypes.DT_INT8: (np.int8, *_INT32),
    dtypes.DT_INT16: (np.int16, *_INT32),
    dtypes.DT_INT32: (np.int32, *_INT32),
    dtypes.DT_UINT8: (np.uint8, *_INT32),
    dtypes.DT_INT64: (np.int64, -(2**63), 2**63 - 1),
    dtypes.DT_UINT32: (np.uint32, 0, 2**32 - 1),
    dtypes.DT_UINT64: (np.uint64, 0, 2**64 - 1),
}
_JSON_TYPES = {bool: "Bool", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
_SPECIAL_FLOATS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_DIGITS_IN_FULL = {np.dtype(np.float32): 9, np.dtype(np.float64): 17}
_SURROGATE = re.compile(r"\\u[dD]")

Array = npt.NDArray[Any]


class Info(Protocol):
    """What a signature says of a tensor; `TensorInfo` of TensorFlow is one.

    Attributes:
        dtype: the number of its dtype.
    """

    @property
    def dtype(self) -> int:
        """The number of its dtype."""


Infos = Mapping[str, Info]


class Layout(enum.Enum):
    """The layout of the tensors in a request and its answer; the values are the keys in the answer."""

    ROWS = "predictions"
    COLUMNS = "outputs"


class _IrregularError(Exception):
    """A JSON value is no tensor of the dtype; `_explain` finds the reason."""


def parse(body: bytes) -> dict[str, Any]:
    """Reads a request body, which is one JSON object. Text after the object is ignored.

    It is read as `request_logs.rapid_json` says.

    Raises:
        StatusError: the body is no JSON, or not an object.
    """
    text = body.decode("utf-8-sig", errors="surrogateescape").lstrip(" \t\r\n")
    if not text:
        raise invalid("JSON Parse error: The document is empty")
    try:
        check_json(text, MOST_VALUES)
        document = rapid_json.decode(text)
    except json.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error.msg} at offset: {error.pos}") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, lists nested thousands deep
        raise invalid(f"JSON Parse error: {error}") from None
    if _SURROGATE.search(text):
        _check_surrogates(document)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_quote(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """Returns the signature that a request names, "" if none. Bytes that are not UTF-8 are replaced.

    Raises:
        StatusError: it is no string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_quote(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return _clean(name)


def _clean(text: str) -> str:
    """Replaces the bytes of a string that are not UTF-8, because protobuf messages must not hold them."""
    return text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")


def read_inputs(document: Mapping[str, Any], infos: Infos) -> tuple[Layout, dict[str, Array]]:
    """Reads the tensors of a predict request.

    Args:
        document: the parsed request.
        infos: the inputs of the signature, by name; at least one.

    Returns:
        The layout, and the tensors by input name.

    Raises:
        StatusError: the request does not fit `infos`; the message is TensorFlow Serving's.
    """
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {_quote(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in document:
        return Layout.ROWS, _read_rows(document["instances"], infos, document)
    if "inputs" in document:
        return Layout.COLUMNS, _read_columns(document["inputs"], infos)
    raise invalid("Missing 'inputs' or 'instances' key")


def write_outputs(outputs: Mapping[str, Array], layout: Layout) -> str:
    """Writes the answer to a predict request.

    A single output is written without its name. Floats get 6 significant digits if those are exact, otherwise 9 or 17.

    Args:
        outputs: the tensors by output name.
        layout: the layout of the request.

    Raises:
        StatusError: a dtype has no JSON form, or outputs in rows do not have one row per example.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    if layout is Layout.COLUMNS:
        texts = {name: _nest(_write_values(name, array), array.shape)[0] for name, array in outputs.items()}
        return f'{{\n    "{layout.value}": {_join_names(texts)}\n}}'
    _check_rows(outputs)
    columns = [_nest(_write_values(name, array), array.shape, keep=1) for name, array in outputs.items()]
    rows = [_join_names(dict(zip(outputs, row, strict=True))) for row in zip(*columns, strict=True)]
    return f'{{\n    "{layout.value}": [{", ".join(rows)}\n    ]\n}}'


def error_body(message: str) -> str:
    """Writes the body of an error."""
    return json.dumps({"error": _clean(message)}, indent=4, ensure_ascii=False)


# Reading


def _check_surrogates(document: Any) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode("utf-8", errors="surrogateescape")
    except (UnicodeEncodeError, RecursionError):
        raise invalid("JSON Parse error: The surrogate pair in string is invalid.") from None


def _read_rows(instances: Any, infos: Infos, document: Mapping[str, Any]) -> dict[str, Array]:
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {_quote(document)} Expecting 'instances' to be an list/array")
    if not instances:
        raise invalid(f"JSON Value: {_quote(document)} No values in 'instances' array")
    if len(infos) > 1 and not isinstance(instances[0], dict):
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    named = _is_named(instances[0])
    try:
        if any(_is_named(row) != named or (named and _names(row) != infos.keys()) for row in instances):
            raise _IrregularError
        columns = {name: rapid_json.values(instances, name) for name in infos} if named else {min(infos): instances}
        return {name: _to_array(column, infos[name].dtype)[: len(instances)] for name, column in columns.items()}
    except _IrregularError:
        _explain_rows(instances, infos)


def _read_columns(inputs: Any, infos: Infos) -> dict[str, Array]:
    if not _is_named(inputs):
        if len(infos) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        inputs = {name: inputs for name in infos}
    for name in infos:
        if name not in inputs:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    try:
        return {name: _to_array(inputs[name], info.dtype) for name, info in infos.items()}
    except _IrregularError:
        for name, info in infos.items():
            _explain(inputs[name], info.dtype)
        raise invalid("'inputs' cannot be converted to tensors") from None


def _names(row: dict[str, Any]) -> Set[str]:
    return {name for name, _ in rapid_json.members(row)} if isinstance(row, rapid_json.Repeated) else row.keys()


def _is_named(value: Any) -> bool:
    """Whether a JSON value is an object of named tensors, and not one tensor or binary data."""
    return isinstance(value, dict) and not is_base64(value)


def _to_array(value: Any, dtype: int) -> Array:
    """Converts nested lists of equal lengths; the first value at each depth decides the shape."""
    if isinstance(value, list) and len(value) > MOST_ROWS:
        raise invalid(f"{len(value)} rows; at most {MOST_ROWS} are answered at once. Send several requests.")
    shape: list[int] = []
    items = [value]
    while items and type(items[0]) is list:
        size = len(items[0])
        if set(map(type, items)) != {list} or set(map(len, items)) != {size}:
            raise _IrregularError
        shape.append(size)
        items = list(chain.from_iterable(items))
    if len(shape) > DEEPEST:
        raise invalid(f"JSON lists are nested {len(shape)} deep; at most {DEEPEST} are accepted")
    return _to_flat_array(items, dtype).reshape(shape)


def _to_flat_array(values: list[Any], dtype: int) -> Array:
    types = set(map(type, values))  # not isinstance, for which a bool is an int
    if dtype in _FLOATS and types <= {int, float}:
        return _to_floats(values, _FLOATS[dtype])
    if dtype in _INTEGERS and types <= {int}:
        kind, low, high = _INTEGERS[dtype]
        if not values or (low <= min(values) and max(values) <= high):
            return np.array(values, np.int64 if low < 0 else np.uint64).astype(kind)
    if dtype == dtypes.DT_BOOL and types <= {bool}:
        return np.array(values, np.bool_)
    if dtype == dtypes.DT_STRING and types <= {str, dict}:
        return np.array([_to_bytes(value) for value in values], np.object_)
    raise _IrregularError


def _to_floats(values: list[float], kind: type[np.floating[Any]]) -> Array:
    try:
        with np.errstate(over="ignore"):  # a value too large for float32 becomes infinity
            return np.array(values, kind)
    except OverflowError:
        raise invalid("JSON Parse error: Number too big to be stored in double.") from None


def _to_bytes(value: str | dict[str, Any]) -> bytes:
    """Returns the bytes that a JSON string or a base64 object stands for."""
    if not isinstance(value, str) and not is_base64(value):
        raise _IrregularError
    try:
        return to_bytes(value)
    except ValueError:
        raise invalid("Unable to base64 decode") from None


# Error texts


def _explain_rows(instances: list[Any], infos: Infos) -> NoReturn:
    """Raises TensorFlow Serving's error for the first row that is wrong."""
    named = _is_named(instances[0])
    first: dict[str, list[int]] = {}
    for index, row in enumerate(instances):
        if _is_named(row) != named:
            raise invalid(
                f"Expecting object but got list at item {index} of input list"
                if named
                else f"Expecting value/list but got object at item {index} of input list"
            )
        for name, value in rapid_json.members(row) if named else [(min(infos), row)]:
            try:
                _explain_item(name, value, infos, first)
            except StatusError as error:
                key = f" key: {name}" if named else ""
                raise invalid(f"Failed to process element: {index}{key} of 'instances' list. Error: {error}") from None
        if named and _names(row) != infos.keys():
            raise invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object: {_quote(row)} keys must be "
                f"equal to: {','.join(sorted(infos))}"
            )
    raise invalid("'instances' cannot be converted to tensors")


def _explain_item(name: str, value: Any, infos: Infos, first: dict[str, list[int]]) -> None:
    if name not in infos:
        raise invalid(f"JSON object: does not have named input: {name}")
    shape = _explain(value, infos[name].dtype)
    expected = first.setdefault(name, shape)
    if math.prod(shape) != math.prod(expected):
        raise invalid(f"Expecting tensor size: {math.prod(expected)} but got: {math.prod(shape)}")
    if shape != expected:
        raise invalid(f"Expecting shape {_shape_text(expected)} but got: {_shape_text(shape)}")


def _explain(value: Any, dtype: int) -> list[int]:
    """Returns the shape of a tensor, or raises TensorFlow Serving's error for the first value that is wrong."""
    shape = []
    item = value
    while isinstance(item, list):
        shape.append(len(item))
        if not item:
            break
        item = item[0]
    try:
        _explain_level(value, 0, shape, dtype)
    except RecursionError:
        raise invalid(f"JSON lists are nested too deep; at most {DEEPEST} are accepted") from None
    return shape


def _explain_level(value: Any, level: int, shape: list[int], dtype: int) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_quote(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at "
                f"level: {len(shape)}"
            )
        _explain_value(value, dtype)
    elif level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    elif len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    else:
        for item in value:
            _explain_level(item, level + 1, shape, dtype)


def _explain_value(value: Any, dtype: int) -> None:
    if dtype == dtypes.DT_STRING and isinstance(value, dict) and not is_base64(value):
        raise invalid(f"JSON Value: {_quote(value)} not formatted correctly for base64 data")
    try:
        _to_flat_array([value], dtype)
    except _IrregularError:
        known = dtype in _FLOATS or dtype in _INTEGERS or dtype in (dtypes.DT_BOOL, dtypes.DT_STRING)
        if known or isinstance(value, dict):
            expected = dtypes.name_of(dtype)
            raise invalid(
                f"JSON Value: {_quote(value)} Type: {_type_name(value)} is not of expected type: {expected}"
            ) from None
        raise StatusError(
            Code.UNIMPLEMENTED, f"Conversion of JSON Value: {_quote(value)} to type: {dtypes.name_of(dtype)}"
        ) from None


def _type_name(value: Any) -> str:
    """Returns the name that error texts use for the type of a JSON value."""
    if isinstance(value, bool):
        return str(value)
    return _JSON_TYPES.get(type(value), "Null")


def _shape_text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _quote(value: Any) -> str:
    """Returns the beginning of `value` as JSON, without encoding the rest of a large one."""
    text = ""
    for chunk in json.JSONEncoder().iterencode(value):
        text += chunk
        if len(text) >= QUOTE_LIMIT:
            break
    return text[:QUOTE_LIMIT]


# Writing


def _check_rows(outputs: Mapping[str, Array]) -> None:
    batch: int | None = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch is not None and len(array) != batch:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {batch}")
        batch = len(array)


def _write_values(name: str, array: Array) -> list[str]:
    """Writes the values of one output, flat."""
    dtype = dtypes.number_of(array)
    if dtype in _FLOATS:
        return _write_floats(array)
    write = _VALUE_WRITERS.get(dtype)
    if write is None:
        raise invalid(f"Failed to write JSON value for tensor type: {dtypes.name_of(dtype)}")
    if dtype == dtypes.DT_STRING and name.endswith(BYTES_SUFFIX):
        write = _write_base64
    return list(map(write, array.ravel().tolist()))


def _write_floats(array: Array) -> list[str]:
    """Writes each value with 6 significant digits if those are exact, otherwise with 9 or 17."""
    values = array.ravel().tolist()
    short = ("%g " * len(values) % tuple(values)).split()
    with np.errstate(over="ignore"):
        exact = np.array(list(map(float, short)), array.dtype) == array.ravel()
    full = f"%.{_DIGITS_IN_FULL[array.dtype]}g"
    texts = [text if same else full % value for text, same, value in zip(short, exact.tolist(), values, strict=True)]
    return list(map(_as_float_text, texts))


def _as_float_text(text: str) -> str:
    """Makes JSON of a number formatted by `%g`. Whole numbers get a `.0`, so that no list mixes two types."""
    if "." in text or "e" in text:
        return text
    return _SPECIAL_FLOATS.get(text) or text + ".0"


def _write_base64(value: bytes) -> str:
    return f'{{"b64": "{base64.b64encode(value).decode()}"}}'


def _write_text(value: bytes) -> str:
    """Writes a JSON string; bytes that are not UTF-8 are passed through as they are."""
    return json.dumps(value.decode("utf-8", errors="surrogateescape"), ensure_ascii=False)


_VALUE_WRITERS: dict[int, Callable[[Any], str]] = {
    **dict.fromkeys(_INTEGERS, str),
    dtypes.DT_BOOL: lambda value: "true" if value else "false",
    dtypes.DT_STRING: _write_text,
}


def _nest(texts: list[str], shape: Sequence[int], keep: int = 0) -> list[str]:
    """Puts brackets around flat values, from the innermost axis outwards, leaving the first `keep` axes flat."""
    for axis in reversed(range(keep, len(shape))):
        size = shape[axis]
        count = math.prod(shape[:axis])
        texts = [f"[{', '.join(texts[index * size : (index + 1) * size])}]" for index in range(count)]
    return texts


def _join_names(texts: Mapping[str, str]) -> str:
    if len(texts) == 1:
        return next(iter(texts.values()))
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in texts.items()) + "}"
