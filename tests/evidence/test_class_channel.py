"""Residuals of the class channel against the slow reference, and the evidence they give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamarks_tf.evidence import class_channel
from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.channels import channel_evidence
from dynamarks_tf.evidence.class_channel import ClassChannelTable
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.params import MarkParams
from tests.helpers import reference

KEY = MarkKey(bytes(range(32)), "ACME Vision")


def random_answers(rng, n, num_classes):
    return rng.dirichlet(np.full(num_classes, 0.3), size=n)


def filled(book, clean, suspect, batch_size=1000):
    table = ClassChannelTable(book.keyed_hash, book.class_signs.shape, budget=0.05)
    for start in range(0, len(clean), batch_size):
        table.add(Batch(clean[start : start + batch_size], suspect[start : start + batch_size]))
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
        clean, suspect, book.keyed_hash.row_of_class, book.keyed_hash.column_of_class, book.class_signs.shape
    )
    np.testing.assert_allclose(found.values, expected, atol=1e-7 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(("caps", "concentration"), [((1024, 1024), 0.3), ((9, 20), 0.3), ((1024, 1024), 0.02)])
def test_residuals_of_many_classes_are_what_the_slow_reference_says(monkeypatch, caps, concentration):
    """The table has few rows then, and few answers are taken at a time; `concentration` decides how rare most are."""
    monkeypatch.setattr(class_channel, "_CACHED", 7 * 70)
    rng = np.random.default_rng(0)
    book = codebook.expand(KEY, 70, MarkParams(table_rows=caps[0], table_columns=caps[1]))
    clean, suspect = (rng.dirichlet(np.full(70, concentration), size=100) for _ in range(2))
    clean[:20, 3] += 1  # more queries of one class than are taken at a time
    clean /= clean.sum(axis=1, keepdims=True)
    found = filled(book, clean, suspect, batch_size=60).residuals()
    expected = reference.class_code_residuals(
        clean, suspect, book.keyed_hash.row_of_class, book.keyed_hash.column_of_class, book.class_signs.shape
    )
    np.testing.assert_allclose(found.values, expected, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("num_classes", [10, 100])
def test_single_precision_answers_give_the_residuals_of_double_precision(num_classes):
    rng = np.random.default_rng(0)
    book = codebook.expand(KEY, num_classes, MarkParams())
    clean, suspect = (random_answers(rng, 9000, num_classes).astype(np.float32) for _ in range(2))
    single = filled(book, clean, suspect, 4096).residuals().values
    double = filled(book, clean.astype(np.float64), suspect.astype(np.float64), 4096).residuals().values
    # Sums of up to 4,096 logarithms of size 1 to 18, in whatever order the processor takes.
    np.testing.assert_allclose(single, double, atol=1e-5 * max(1, np.abs(double).max()))


@pytest.mark.parametrize("num_classes", [10, 100])
@given(seed=st.integers(0, 2**32 - 1), batch_size=st.integers(1, 50))
@settings(max_examples=20)
def test_batching_does_not_change_the_residuals(num_classes, seed, batch_size):
    """100 classes are summed by row of the table, 10 by predicted class."""
    rng = np.random.default_rng(seed)
    book = codebook.expand(KEY, num_classes, MarkParams())
    clean, suspect = random_answers(rng, 120, num_classes), random_answers(rng, 120, num_classes)
    whole, parts = (filled(book, clean, suspect, size).residuals() for size in (1000, batch_size))
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-7 * np.abs(whole.values).max())
    assert parts.num_queries == whole.num_queries == 120


def test_the_diagonal_and_rows_without_queries_hold_nothing():
    rng = np.random.default_rng(0)
    book = codebook.expand(KEY, 10, MarkParams())
    clean, suspect = random_answers(rng, 30, 10), random_answers(rng, 30, 10)
    seen = clean.argmax(axis=1) < 4
    found = filled(book, clean[seen], suspect[seen]).residuals()
    assert not found.values[4:].any()
    assert not np.diagonal(found.values).any()
    assert found.num_cells == 9 * len(np.unique(clean[seen].argmax(axis=1)))


def test_a_copy_of_the_clean_model_leaves_no_residual():
    clean = random_answers(np.random.default_rng(0), 100, 10)
    found = filled(codebook.expand(KEY, 10, MarkParams()), clean, clean.copy()).residuals()
    assert found.slope == pytest.approx(1)
    assert not found.values.any()  # what rounding leaves would be weighed like anything else


def test_scaling_a_suspects_answers_changes_nothing_above_the_floor():
    rng = np.random.default_rng(0)
    book = codebook.expand(KEY, 10, MarkParams())
    clean = random_answers(rng, 50, 10)
    suspect = np.maximum(random_answers(rng, 50, 10), 1e-3)
    one, half = (filled(book, clean, suspect * s).residuals().values for s in (1.0, 0.5))
    np.testing.assert_allclose(one, half, atol=1e-9)


def test_no_answers_are_no_evidence():
    book = codebook.expand(KEY, 10, MarkParams())
    found = filled(book, np.zeros((0, 10)), np.zeros((0, 10))).residuals()
    assert not found.values.any()
    assert (found.num_queries, found.num_cells, found.slope) == (0, 0, 0)


def test_marked_answers_are_detected_and_those_of_another_key_are_not():
    rng = np.random.default_rng(0)
    clean = random_answers(rng, 2000, 10)
    books = {name: codebook.expand(MarkKey(bytes([name]) * 32, "o"), 10, MarkParams()) for name in range(30)}

    def marked(book):
        arguments = (book.class_signs, book.keyed_hash.row_of_class, book.keyed_hash.column_of_class, 0.05)
        return np.array([reference_class_channel(p, *arguments) for p in clean])

    found = filled(books[0], clean, marked(books[0])).residuals()
    values = [channel_evidence("class", b.class_signs, found).log10_p for b in books.values()]
    assert values[0] < -15
    # 29 other keys: each has p <= 1e-4 with probability at most 1e-4, so this fails by chance in 0.3 % of keys; the
    # keys are fixed.
    assert min(values[1:]) > -4


def reference_class_channel(p, signs, rows, columns, alpha):
    top = int(p.argmax())
    favored = [c for c in range(len(p)) if c != top and signs[rows[top], columns[c]] > 0]
    uniform = np.zeros(len(p))
    uniform[favored] = 1 / len(favored)
    moved = p + alpha * (uniform - p)
    return moved if moved.argmax() == top else p


def test_agreement_is_between_minus_one_and_one():
    residuals = Residuals(np.array([[1.0, -2.0], [0.5, 0.0]]), num_queries=7, num_cells=3, slope=1.0)
    full = channel_evidence("class", np.array([[1, -1], [1, 1]], np.int8), residuals)
    none = channel_evidence("class", np.array([[-1, 1], [-1, 1]], np.int8), residuals)
    assert (full.agreement, none.agreement) == (1, -1)
    assert full.log10_p == pytest.approx(-3 * np.log10(2))
    assert none.log10_p == 0
    assert full.to_dict()["largest_possible"] == pytest.approx(3.5, rel=0.01)  # but for the rounding to the lattice
    assert type(full).from_dict(full.to_dict()) == full


@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("share", [0.2, 0.9])
def test_queries_that_do_not_count_are_as_if_left_out(num_classes, share):
    """Whether few or most of them count, which are handled differently."""
    rng = np.random.default_rng(0)
    book = codebook.expand(KEY, num_classes, MarkParams())
    clean, suspect = (random_answers(rng, 600, num_classes) for _ in range(2))
    counted = np.flatnonzero(rng.random(600) < share)
    table = ClassChannelTable(book.keyed_hash, book.class_signs.shape, 0.05)
    table.add(Batch(clean, suspect).counting(counted))
    found, expected = table.residuals(), filled(book, clean[counted], suspect[counted], 600).residuals()
    np.testing.assert_allclose(found.values, expected.values, atol=1e-9 * np.abs(expected.values).max())
    assert found.num_queries == expected.num_queries == len(counted)
