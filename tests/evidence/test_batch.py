"""What is read from a batch of answers, class by class or query by query."""

import numpy as np
import pytest

from dynamarks_tf.evidence.answers import is_one_hot
from dynamarks_tf.evidence.batch import NARROW, Batch


def rounded_answers(rng, n, num_classes):
    """In steps so coarse that the best classes are often equal."""
    return np.round(rng.dirichlet(np.ones(num_classes), n), 1 if num_classes < 20 else 2).astype(np.float32)


@pytest.mark.parametrize("num_classes", [2, 10, NARROW, NARROW + 1, 200])
@pytest.mark.parametrize("labels", [False, True])
def test_the_first_of_equal_classes_is_best_whatever_the_number_of_classes(num_classes, labels):
    rng = np.random.default_rng(0)
    clean, suspect = rounded_answers(rng, 500, num_classes), rounded_answers(rng, 500, num_classes)
    top, of_suspect = clean.argmax(axis=1), suspect.argmax(axis=1)
    assert (np.sort(clean, axis=1)[:, -1] == np.sort(clean, axis=1)[:, -2]).sum() > 20
    batch = Batch(clean, of_suspect if labels else suspect)
    assert batch.num_agreeing == (top == of_suspect).sum()
    np.testing.assert_array_equal(batch.top, top)
    np.testing.assert_array_equal(batch.best, clean.max(axis=1))
    if not labels:
        np.testing.assert_array_equal(batch.by_class.is_best.argmax(axis=1), [top, of_suspect])
        assert (batch.by_class.is_best.sum(axis=1) == 1).all()


def test_answers_of_different_precision_are_kept():
    clean, suspect = np.array([[0.25, 0.75]], np.float32), np.array([[1 / 3, 2 / 3]])
    np.testing.assert_array_equal(Batch(clean, suspect).by_class.answers[:, :, 0], [clean[0], suspect[0]])


def test_one_row_is_enough_to_tell_probabilities_from_labels():
    labels = np.eye(4)[[0, 2, 1]]
    assert is_one_hot(labels)
    assert is_one_hot(labels[:0])
    for row in range(3):
        answers = labels.copy()
        answers[row] = [0.5, 0.5, 0, 0]
        assert not is_one_hot(answers)
