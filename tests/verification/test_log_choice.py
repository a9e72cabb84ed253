"""Which logged queries are asked: few, those that say most, and chosen by clean answers alone."""

import numpy as np
import pytest

from dynamarks_tf.evidence.meetings import num_class_cells
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.request_logs.query_log import Selection
from dynamarks_tf.request_logs.reduction import FilePart, Origin
from dynamarks_tf.verification.log_choice import LogChoice
from dynamarks_tf.verification.reducing import Marked, Reducer
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.params import MarkParams

PARAMS = MarkParams()


def choice_of(num_classes, num_ties, num_others, length=None):
    """A log of ties and others in random order, each with an answer of its own; and which queries are ties."""
    rng = np.random.default_rng(0)
    clean = rng.dirichlet(np.full(num_classes, 0.5), num_ties + num_others)
    clean = np.sort(clean, axis=1)[:, ::-1].copy()
    clean[:, 0] += 0.3  # no tie by chance
    clean[:num_ties, 0] = clean[:num_ties, 1] + rng.uniform(0, 1e-3, num_ties)
    clean /= clean.sum(axis=1, keepdims=True)
    shift = rng.integers(0, num_classes, len(clean))[:, None]
    clean = np.take_along_axis(clean, (np.arange(num_classes) + shift) % num_classes, axis=1)
    clean = clean[rng.permutation(len(clean))]
    keyed_hash = codebook.expand(MarkKey(bytes(32), "x"), num_classes, PARAMS).keyed_hash
    reducer = Reducer(Marked("", lambda inputs: inputs, keyed_hash, PARAMS, (num_classes,), False))
    clean = clean[:length]
    reducer.add([(clean, reducer.row(Origin(None, None, None)))], number=0)
    reducer.files.append(FilePart("log", 0, "", 0, {}))
    reduction = reducer.reduction()
    return LogChoice(reduction, Selection(), num_classes, 1), clean[reduction.queries["row"]]


def test_half_of_a_few_are_the_first_ties_and_half_the_first_confident_ones_of_each_class():
    choice, clean = choice_of(10, 200, 2000)
    chosen = choice.fewest(40, num_ties=20)
    assert len(chosen) == 40
    assert (np.diff(chosen) > 0).all()  # in the order of the log
    np.testing.assert_array_equal(np.intersect1d(chosen, choice.ties)[:20], choice.ties[:20])
    others = np.setdiff1d(chosen, choice.ties[:20])
    assert np.bincount(clean[others].argmax(axis=1), minlength=10).tolist() == [2] * 10
    assert clean[others].max(axis=1).min() > np.quantile(clean.max(axis=1), 0.5)
    assert others.max() < 500  # the first of the log that are sure enough


def test_no_later_query_decides_whether_an_earlier_one_is_asked():
    """A client who knows what an answer showed may send surer inputs after it, or stop."""
    choice, _clean = choice_of(10, 200, 2000)
    whole = choice.fewest(60, num_ties=30)
    for length in (50, 300, 1000):
        shorter, _ = choice_of(10, 200, 2000, length)
        start = shorter.fewest(60, num_ties=30)
        np.testing.assert_array_equal(start, whole[: len(start)])
        assert len(start) == len(whole) or length < 1000


@pytest.mark.parametrize("count", [1, 3, 15, 47])
def test_no_more_are_asked_than_are_wanted(count):
    choice, _ = choice_of(10, 200, 2000)
    assert len(choice.fewest(count, num_ties=count // 2)) == count


@pytest.mark.parametrize("count", [120, None])
def test_of_labels_only_ties_are_asked_in_the_order_of_the_log(count):
    choice, _ = choice_of(10, 300, 500)
    np.testing.assert_array_equal(choice.first_ties(count), choice.ties[:count])


@pytest.mark.parametrize(
    ("num_classes", "count", "num_others"), [(2, 100, 20), (2, 40, 8), (10, 50, 10), (10, None, 20)]
)
def test_two_classes_and_few_ties_get_others_that_show_which_class_is_which(num_classes, count, num_others):
    choice, clean = choice_of(num_classes, 60, 800)
    chosen = choice.first_ties(count)
    others = np.setdiff1d(chosen, choice.ties)
    assert len(others) == num_others
    assert len(chosen) <= (count or np.inf)
    assert clean[others].max(axis=1).min() > clean[choice.ties].max()


def test_only_signs_that_a_chosen_query_met_first_can_count():
    choice, _ = choice_of(10, 200, 1000)
    chosen = choice.fewest(30, num_ties=15)
    few, every = choice.met_before(chosen), choice.met_before(choice.all())
    for some, whole in zip(few, every, strict=True):
        assert (some >= whole).all()  # what does not count of all does not count of a few
        assert (~some).sum() < (~whole).sum()
    assert (~few.ties).sum() >= 15
    assert len(few.classes) == num_class_cells(10)
