"""Which class of the suspect is which of the owner's, found from the answers alone."""

import numpy as np
import pytest

from dynamarks_tf.case.alignment import aligned
from dynamarks_tf.evidence.class_order import Confusion, class_order, in_order

RANDOM = np.random.default_rng(5)


def confusion(clean, suspect):
    counted = Confusion()
    for start in range(0, len(clean), 7):
        counted.add(np.asarray(clean[start : start + 7]), np.asarray(suspect[start : start + 7]))
    return counted


def test_counts_are_those_of_the_answers_however_large_the_numbers_are():
    clean, suspect = RANDOM.integers(0, 5, 100), RANDOM.integers(-1, 5, 100)
    for shift in (0, 100_000):
        found = confusion(clean, np.where(suspect >= 0, suspect + shift, -1))
        assert [found.count(i, j + shift) for i in range(5) for j in range(5)] == [
            ((clean == i) & (suspect == j)).sum() for i in range(5) for j in range(5)
        ]
        assert found.num_unknown == (suspect == -1).sum()
    plain = confusion(clean, suspect)
    assert plain.num_agreeing == (clean == suspect).sum()
    assert plain.chance == pytest.approx(sum((clean == i).mean() * (suspect == i).mean() for i in range(5)))


def test_an_order_is_found_under_noise_and_classes_that_nobody_met_keep_their_numbers():
    order = RANDOM.permutation(20)
    clean = RANDOM.integers(0, 18, 600)  # the last two never
    suspect = np.where(RANDOM.random(600) < 0.4, RANDOM.integers(0, 20, 600), order[clean])
    found = class_order(confusion(clean, suspect), 20, 20)
    assert found[:18] == tuple(order[:18].tolist())
    assert all(theirs in (-1, ours) for ours, theirs in enumerate(found[18:], 18))
    assert len({theirs for theirs in found if theirs >= 0}) == sum(theirs >= 0 for theirs in found)


def test_equal_choices_leave_classes_where_they_are_and_do_not_hang_on_the_order_of_the_answers():
    clean, suspect = np.repeat([0, 1, 2], 4), np.tile([0, 1], 6)
    forward = confusion(clean, suspect).matched()
    assert forward == confusion(clean[::-1], suspect[::-1]).matched()
    assert {ours: theirs for ours, theirs in forward.items() if ours != theirs} == {}


def test_answers_are_put_into_the_order_and_surplus_classes_dropped():
    answers = np.array([[0.1, 0.6, 0.3], [1.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(in_order(answers, (2, 1), labels=False), [[1 / 3, 2 / 3], [0.5, 0.5]], rtol=1e-6)
    np.testing.assert_array_equal(
        in_order(answers, (1, -1, 0, 2), labels=False)[0], answers[0][[1, 0, 0, 2]] * [1, 0, 1, 1]
    )
    np.testing.assert_array_equal(in_order(np.array([[7, 1], [-1, 9]]), (9, 7, -1), labels=True), [[1, -1], [-1, 0]])


@pytest.mark.parametrize("one_hot", [False, True])
def test_labels_in_disguise_become_labels(one_hot):
    clean = np.eye(3)[RANDOM.integers(0, 3, 30)] * 0.7 + 0.1
    suspect = clean[:, [1, 2, 0]]
    suspect = np.eye(3)[suspect.argmax(axis=1)] if one_hot else suspect
    order, answers = aligned([(clean[:20], suspect[:20]), (clean[20:], suspect[20:])], 3)
    assert order == (2, 0, 1)
    again = [np.concatenate(part) for part in zip(*answers, strict=True)]
    np.testing.assert_array_equal(again[0], clean)
    np.testing.assert_array_equal(again[1], clean.argmax(axis=1) if one_hot else clean)
