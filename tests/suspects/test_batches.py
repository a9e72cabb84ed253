"""Batches are sent in the form that the suspect takes, or not at all."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.batches import brief, fit_shape, fit_type


@pytest.mark.parametrize("shape", [None, (3,), (None,)])
def test_fitting_shape_passes(shape: Any) -> None:
    assert fit_shape([[1.0, 2.0, 3.0]], shape, "it").shape == (1, 3)


@pytest.mark.parametrize(
    ("shape", "text"),
    [((4,), r"takes inputs of shape \(n, 4\) and was given \(2, 3\)"), ((None, 1), r"\(n, any, 1\)"), ((), "given")],
)
def test_other_shape_is_refused(shape: Any, text: str) -> None:
    with pytest.raises(SuspectError, match=text):
        fit_shape(np.zeros((2, 3)), shape, "it")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0.1, 0.7], "float32"),
        ([1e300, np.nan], "float32"),
        ([0.0, 255.0], "uint8"),
        ([1, 2], "float16"),
        (["red"], "object"),
        ([1, 0], "bool"),
    ],
)
def test_values_that_fit_are_converted(values: Any, dtype: str) -> None:
    converted = fit_type(np.array(values), np.dtype(dtype), "it")
    assert converted.dtype == dtype
    assert len(converted) == len(values)


@pytest.mark.parametrize(
    ("values", "dtype", "text"),
    [
        (
            [0.5],
            "uint8",
            "takes uint8 and was given float64 values that do not fit (from 0.5 to 0.5). Convert",
        ),
        ([256], "uint8", "takes uint8 and was given int64"),
        ([np.nan], "int32", "takes int32"),
        (["red"], "float32", "takes float32"),
        ([1.0], "object", "takes text and was given float64"),
    ],
)
def test_values_that_would_be_lost_are_refused(values: Any, dtype: str, text: str) -> None:
    with pytest.raises(SuspectError, match=re.escape(text)):
        fit_type(np.array(values), np.dtype(dtype), "it")


def test_texts_of_others_are_made_printable() -> None:
    assert brief("a\n  \x1b[1;31mred\x1b[0m \x1b[\x07") == r"a red \x1b[\x07"
    assert brief(b"\xff<html>") == "\ufffd<html>"
    assert brief("x" * 400) == "x" * 300 + "..."
    assert brief(TimeoutError()) == "TimeoutError"
