"""Numbers for people: rounded so that a bound stays a bound."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamarks_tf.report import wording


@pytest.mark.parametrize(
    ("log10_p", "expected"),
    [
        (0.0, "1"),
        (math.log10(0.98), "0.98"),
        (math.log10(0.9951), "1"),
        (-1.5, "0.032"),
        (-2.5, "0.0032"),
        (-6.0, "10⁻⁶"),
        (math.log10(1e-6), "10⁻⁶"),
        (-20.7, "2.0 × 10⁻²¹"),
        (-48.714, "2.0 × 10⁻⁴⁹"),
        (-20.001, "10⁻²⁰"),
    ],
)
def test_probabilities(log10_p, expected):
    assert wording.probability(log10_p) == expected


@given(st.floats(-400, 0))
def test_a_stated_bound_is_never_below_the_bound_and_at_most_a_tenth_above(log10_p):
    digits, exponent = wording.scientific(log10_p)
    stated = math.log10(float(digits)) + (exponent or 0)
    assert log10_p - 1e-6 <= stated <= log10_p + math.log10(1.1) + 1e-6


def test_guesses_numbers_and_dates():
    assert wording.correct_guesses(10 * math.log10(0.5)) == 10
    assert wording.correct_guesses(0.0) == 0
    assert wording.decimals(-21.774, 2) == "−21.77"
    assert wording.decimals(-0.001, 2) == "0.00"
    assert wording.date("2026-11-24T20:17:57.074+00:00") == "2026-11-24 20:17 UTC"
    assert wording.date("last summer") == "last summer"
