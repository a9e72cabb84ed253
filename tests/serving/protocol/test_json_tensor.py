"""JSON to tensors and back, for tensors of every kind."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from dynamarks_tf.serving.protocol import json_tensor
from dynamarks_tf.serving.protocol.json_tensor import Layout
from dynamarks_tf.serving.protocol.status import StatusError

NUMBERS = {
    "float32": types_pb2.DT_FLOAT,
    "float64": types_pb2.DT_DOUBLE,
    "int8": types_pb2.DT_INT8,
    "int32": types_pb2.DT_INT32,
    "int64": types_pb2.DT_INT64,
    "uint8": types_pb2.DT_UINT8,
    "uint32": types_pb2.DT_UINT32,
    "uint64": types_pb2.DT_UINT64,
    "bool": types_pb2.DT_BOOL,
}


def infos(**dtypes: int) -> dict[str, meta_graph_pb2.TensorInfo]:
    return {name: meta_graph_pb2.TensorInfo(dtype=dtype) for name, dtype in dtypes.items()}


def read(text: str, **dtypes: int) -> tuple[Layout, dict[str, np.ndarray]]:
    return json_tensor.read_inputs(json_tensor.parse(text.encode()), infos(**dtypes))


shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@settings(deadline=None)
@given(data=st.data(), dtype=st.sampled_from(sorted(NUMBERS)))
def test_columns_are_read_back_bit_by_bit(data: st.DataObject, dtype: str) -> None:
    array = data.draw(hnp.arrays(dtype, shapes))
    if 0 in array.shape[:-1]:
        return  # in JSON, (0, 3) and (0,) are the same
    text = json_tensor.write_outputs({"x": array}, Layout.COLUMNS).replace('"outputs"', '"inputs"')
    layout, tensors = read(text, x=NUMBERS[dtype])
    assert layout is Layout.COLUMNS
    assert (tensors["x"].dtype, tensors["x"].shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(tensors["x"], array)


@settings(deadline=None)
@given(
    first=hnp.arrays("float32", st.tuples(st.just(3), st.integers(1, 3))),
    second=hnp.arrays("int64", st.tuples(st.just(3), st.integers(1, 3), st.integers(1, 2))),
)
def test_rows_are_read_back_bit_by_bit(first: np.ndarray, second: np.ndarray) -> None:
    text = json_tensor.write_outputs({"a": first, "b": second}, Layout.ROWS).replace('"predictions"', '"instances"')
    layout, tensors = read(text, a=types_pb2.DT_FLOAT, b=types_pb2.DT_INT64)
    assert layout is Layout.ROWS
    np.testing.assert_array_equal(tensors["a"], first)
    np.testing.assert_array_equal(tensors["b"], second)


@settings(deadline=None)
@given(values=st.lists(st.binary(), min_size=1))
def test_bytes_are_read_back_from_base64(values: list[bytes]) -> None:
    text = json_tensor.write_outputs({"x_bytes": np.array(values, object)}, Layout.ROWS)
    _, tensors = read(text.replace('"predictions"', '"instances"'), x=types_pb2.DT_STRING)
    assert tensors["x"].tolist() == values


@settings(deadline=None)
@given(values=st.lists(st.text()))
def test_text_is_utf_8(values: list[str]) -> None:
    text = json_tensor.write_outputs({"x": np.array([v.encode() for v in values], object)}, Layout.COLUMNS)
    assert json.loads(text) == {"outputs": values}
    _, tensors = read(json.dumps({"inputs": values}), x=types_pb2.DT_STRING)
    assert [value.decode() for value in tensors["x"].tolist()] == values


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.sampled_from(["", "x"]),
    st.just({"b64": "eA=="}),
    st.just({"a": 1}),
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=8)


@settings(deadline=None, max_examples=300)
@given(value=values, dtype=st.sampled_from([*NUMBERS.values(), types_pb2.DT_STRING]), rows=st.booleans())
def test_any_value_is_read_unchanged_or_refused_with_a_reason(value: Any, dtype: int, rows: bool) -> None:
    """The fast conversion and the slow explanation must accept the same values as tensors."""
    try:
        _, tensors = read(json.dumps({"instances" if rows else "inputs": value}), x=dtype)
    except StatusError as error:
        reason, back = error.message, None
    else:
        reason, back = None, tensors["x"].tolist()
    assert reason != ""
    assert "cannot be converted" not in (reason or "")  # the message if the explanation finds no fault
    if dtype == types_pb2.DT_DOUBLE and reason is None:
        assert back == value
    if dtype == types_pb2.DT_BOOL and reason is None:
        assert json.dumps(back) == json.dumps(value)  # 1 is not true


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3.0"),
        (-0.0, "-0.0"),
        (0.1, "0.1"),
        (9000000.0, "9e+06"),
        (0.00003, "3e-05"),
        (1234567.0, "1234567.0"),
        (1 / 3, "0.333333343"),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
    ],
)
def test_floats_have_six_digits_or_as_many_as_they_need(value: float, text: str) -> None:
    written = json_tensor.write_outputs({"x": np.array(value, np.float32)}, Layout.COLUMNS)
    assert written == f'{{\n    "outputs": {text}\n}}'


def test_base64_may_lack_its_padding_but_not_be_wrong() -> None:
    for text, expected in [("eA==", b"x"), ("eA", b"x"), ("e A\\n==", b"x"), ("", b"")]:
        _, tensors = read(f'{{"inputs": {{"b64": "{text}"}}}}', x=types_pb2.DT_STRING)
        assert tensors["x"].item() == expected
    for text in ("e", "eA=", "_-8=", "é"):
        with pytest.raises(StatusError, match="Unable to base64 decode"):
            read(f'{{"inputs": {{"b64": "{text}"}}}}', x=types_pb2.DT_STRING)


def test_inf_in_a_string_stays_text() -> None:
    document = json_tensor.parse(rb'{"a": "Inf, \"Inf\"", "Inf": [Inf, -Inf, "Inf"]}')
    assert document == {"a": 'Inf, "Inf"', "Inf": [float("inf"), float("-inf"), "Inf"]}


def test_an_answer_without_outputs_is_an_error() -> None:
    with pytest.raises(StatusError, match="Cannot convert empty tensor map to JSON"):
        json_tensor.write_outputs({}, Layout.COLUMNS)


def test_the_first_of_several_values_of_one_key_counts_as_in_tensorflow_serving() -> None:
    _, tensors = read('{"instances": [[1.0]], "instances": [[9.0]]}', x=types_pb2.DT_FLOAT)
    np.testing.assert_array_equal(tensors["x"], [[1.0]])
    _, tensors = read('{"instances": [{"x": 1.0, "y": 2.0, "x": 9.0}]}', x=types_pb2.DT_FLOAT, y=types_pb2.DT_FLOAT)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"x": [1.0], "y": [2.0]}
