"""The two option objects of `verify`: what they take, and what they refuse in words."""

import dataclasses

import pytest

import dynamarks_tf as dm
from dynamarks_tf.errors import ArgumentError


def test_options_are_frozen_and_plain():
    options = dm.SuspectOptions(rate=10, class_names=["a", "b"])
    assert options.for_classes(2).class_names == ("a", "b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.rate = 3


def test_a_rate_makes_batches_small_enough():
    assert dm.SuspectOptions(rate=10).batch_size == 10
    assert dm.SuspectOptions(rate=0.1).batch_size == 1
    assert dm.SuspectOptions(rate=1000, batch_size=20).batch_size == 20


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be a whole number, at least 1. Received: batch_size=0"),
        ({"batch_size": 2.5}, "`batch_size` must be a whole number"),
        ({"timeout_s": 0}, "`timeout_s` must be a number of seconds above 0"),
        ({"rate": float("nan")}, "`rate` must be a number of queries a second above 0"),
    ],
)
def test_values_out_of_range_are_refused(given, message):
    with pytest.raises(ArgumentError, match=message):
        dm.SuspectOptions(**given)


def test_names_must_be_as_many_as_classes():
    with pytest.raises(ArgumentError, match="names"):
        dm.SuspectOptions(class_names=["a", "b"]).for_classes(3)


def test_a_bundle_is_not_overwritten(tmp_path):
    (tmp_path / "bundle.zip").write_bytes(b"x")
    with pytest.raises(ArgumentError, match="bundle.zip exists; evidence is not overwritten. Name another file."):
        dm.BundleOptions(tmp_path / "bundle.zip")
    for folder in (tmp_path, f"{tmp_path}/new/"):
        with pytest.raises(ArgumentError, match="is a folder. Name another file."):
            dm.BundleOptions(folder)
