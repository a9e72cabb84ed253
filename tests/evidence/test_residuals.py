"""Residual tables against the slow reference, and the evidence they give."""

import inspect

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamarks_tf import codebook
from dynamarks_tf.evidence import residuals as module
from dynamarks_tf.evidence.channels import channel_evidence
from dynamarks_tf.evidence.residuals import ClassCodeTable
from dynamarks_tf.key import MarkKey
from dynamarks_tf.params import MarkParams

KEY = MarkKey(bytes(range(32)), "ACME Vision")


def random_answers(rng, n, num_classes):
    return rng.dirichlet(np.full(num_classes, 0.3), size=n)


def filled(book, clean, suspect, batch_size=1000):
    table = ClassCodeTable(book.row_of_class, book.column_of_class, book.class_signs.shape)
    for start in range(0, len(clean), batch_size):
        table.add(clean[start : start + batch_size], suspect[start : start + batch_size])
    return table


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(3, 12),
    st.sampled_from([(1024, 1024), (4, 5), (4, 1024)]),
)
@settings(max_examples=60)
def test_residuals_are_what_the_slow_reference_says(seed, n, num_classes, caps):
    rng = np.random.default_rng(seed)
    book = codebook.expand(KEY, num_classes, MarkParams(table_rows=caps[0], table_columns=caps[1]))
    clean, suspect = random_answers(rng, n, num_classes), random_answers(rng, n, num_classes)
    found = filled(book, clean, suspect).residuals()
    expected = reference.class_code_residuals(
        clean, suspect, book.row_of_class, book.column_of_class, book.class_signs.shape
    )
    np.testing.assert_allclose(found.residuals, expected, atol=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 50))
def test_batching_does_not_change_the_residuals(seed, batch_size):
    rng = np.random.default_rng(seed)
    book = codebook.expand(KEY, 10, MarkParams())
    clean, suspect = random_answers(rng, 120, 10), random_answers(rng, 120, 10)
    whole, parts = filled(book, clean, suspect), filled(book, clean, suspect, batch_size)
    np.testing.assert_allclose(parts.residuals().residuals, whole.residuals().residuals, atol=1e-11)
    assert parts.num_queries == 120


def test_the_diagonal_and_rows_without_queries_hold_nothing():
    rng = np.random.default_rng(0)
    book = codebook.expand(KEY, 10, MarkParams())
    clean, suspect = random_answers(rng, 30, 10), random_answers(rng, 30, 10)
    seen = clean.argmax(axis=1) < 4
    found = filled(book, clean[seen], suspect[seen]).residuals()
    assert not found.residuals[4:].any()
    assert not np.diagonal(found.residuals).any()
    assert found.num_cells == 9 * len(np.unique(clean[seen].argmax(axis=1)))


def test_a_copy_of_the_clean_model_leaves_no_residual():
    clean = random_answers(np.random.default_rng(0), 100, 10)
    found = filled(codebook.expand(KEY, 10, MarkParams()), clean, clean.copy()).residuals()
    assert found.slope == pytest.approx(1)
    np.testing.assert_allclose(found.residuals, 0, atol=1e-12)


def test_scaling_a_suspects_answers_changes_nothing_above_the_floor():
    rng = np.random.default_rng(0)
    book = codebook.expand(KEY, 10, MarkParams())
    clean = random_answers(rng, 50, 10)
    suspect = np.maximum(random_answers(rng, 50, 10), 1e-3)
    one, half = (filled(book, clean, suspect * s).residuals().residuals for s in (1.0, 0.5))
    np.testing.assert_allclose(one, half, atol=1e-12)


def test_marked_answers_convict_and_answers_marked_with_another_key_do_not():
    rng = np.random.default_rng(0)
    clean = random_answers(rng, 2000, 10)
    books = {name: codebook.expand(MarkKey(bytes([name]) * 32, "o"), 10, MarkParams()) for name in range(30)}

    def marked(book):
        arguments = (book.class_signs, book.row_of_class, book.column_of_class, 0.05)
        return np.array([reference_class_code(p, *arguments) for p in clean])

    table = filled(books[0], clean, marked(books[0])).residuals()
    values = [
        channel_evidence("class", b.class_signs, table.residuals, table.num_cells).log10_p for b in books.values()
    ]
    assert values[0] < -15
    # 29 other keys: each has p <= 1e-4 with probability at most 1e-4, so this fails by chance in 0.3 % of keys; the
    # keys are fixed.
    assert min(values[1:]) > -4


def reference_class_code(p, signs, rows, columns, alpha):
    top = int(p.argmax())
    favoured = [c for c in range(len(p)) if c != top and signs[rows[top], columns[c]] > 0]
    uniform = np.zeros(len(p))
    uniform[favoured] = 1 / len(favoured)
    moved = p + alpha * (uniform - p)
    return moved if moved.argmax() == top else p


def test_no_function_of_the_residuals_module_takes_a_sign_or_a_key():
    callables = [
        value for _, value in inspect.getmembers(module) if inspect.isfunction(value) or inspect.isclass(value)
    ]
    names = [
        name
        for value in callables
        if value.__module__ == module.__name__
        for name in inspect.signature(value).parameters
    ]
    assert names
    assert not [name for name in names if "sign" in name or "key" in name or "book" in name]


def test_agreement_is_between_minus_one_and_one():
    residuals = np.array([[1.0, -2.0], [0.5, 0.0]])
    full = channel_evidence("class", np.array([[1, -1], [1, 1]], np.int8), residuals, 3)
    none = channel_evidence("class", np.array([[-1, 1], [-1, 1]], np.int8), residuals, 3)
    assert (full.agreement, none.agreement) == (1, -1)
    assert full.log10_p == pytest.approx(-3 * np.log10(2))
    assert none.log10_p == 0
    assert full.to_dict()["largest_possible"] == 3.5
