"""An attacker who knows the scheme: what is estimated from real marked answers, and what is taken back."""

import keras
import numpy as np
import pytest

from dynamarks_tf.attacks import scheme_aware
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook, lookups
from dynamarks_tf.watermark.params import MarkParams
from dynamarks_tf.watermark.perturbation import mark_probabilities
from dynamarks_tf.watermark.probabilities import softmax

BOOK = codebook.expand(MarkKey(bytes(range(32)), "ACME Vision"), 10, MarkParams())


@pytest.fixture(scope="module")
def answers():
    """10,000 clean answers that are confident mostly, the marked ones, and what a model that is unsure of them says."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (10_000, 10))
    logits[np.arange(10_000), rng.integers(0, 10, 10_000)] += rng.gamma(4, 2, 10_000)
    clean = softmax(logits).astype(np.float32)
    tables = lookups.tables_from(BOOK, MarkParams())
    expected = softmax(logits + rng.normal(0, 1, logits.shape)).astype(np.float32)
    return clean, keras.ops.convert_to_numpy(mark_probabilities(clean, tables, MarkParams())), expected


def test_the_answers_give_budget_and_class_signs_away(answers):
    _, marked, _ = answers
    budget = scheme_aware.estimated_budget(marked)
    assert budget == pytest.approx(MarkParams().budget, rel=0.01)
    others = ~np.eye(10, dtype=bool)
    right = (scheme_aware.estimated_signs(marked, budget) == (BOOK.class_signs > 0))[others]
    assert right.mean() > 0.95


def test_the_raise_is_taken_back(answers):
    clean, marked, expected = answers
    cleaned = scheme_aware.without_signs(marked, expected)
    np.testing.assert_allclose(cleaned.sum(axis=1), 1, atol=1e-5)
    assert cleaned.dtype == marked.dtype
    confident = clean.max(axis=1) > 0.9
    moved, left = (np.abs(p - clean)[confident].sum(axis=1).mean() / 2 for p in (marked, cleaned))
    assert left < 0.3 * moved


def test_answers_without_a_mark_hardly_change(answers):
    clean, _, expected = answers
    moved = np.abs(scheme_aware.without_signs(clean, expected) - clean).sum(axis=1) / 2
    assert moved.mean() < 0.01
