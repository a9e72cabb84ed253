"""Answers of a suspect on any scale become the same probabilities, or are refused with what they look like."""

import numpy as np
import pytest

from dynamarks_tf.cli import asking_options as cli
from dynamarks_tf.errors import ArgumentError, SuspectError
from dynamarks_tf.evidence.answer_scale import SCALES
from dynamarks_tf.evidence.answers import check_suspect_answers
from dynamarks_tf.verification.options import SuspectOptions

LOGITS = np.random.default_rng(3).normal(0, 3, (40, 6))
P = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
SCORES = 1 / (1 + np.exp(-LOGITS))
ON_SCALE = {"probability": P, "percent": 100 * P, "log": np.log(P), "logit": LOGITS, "byte": np.round(255 * P)}
ODDS = np.random.default_rng(4).normal(0, 4, 40)
SURE = 1 / (1 + np.exp(-ODDS))
ONE_SCORE = {"probability": SURE, "sigmoid": SURE, "percent": 100 * SURE, "byte": 255 * SURE, "log": np.log(SURE)}


def read(answers, num_classes=6, **options):
    return check_suspect_answers(np.asarray(answers), len(answers), num_classes, **options)


@pytest.mark.parametrize("scale", ON_SCALE)
def test_each_scale_gives_the_probabilities_when_it_is_said(scale):
    np.testing.assert_allclose(read(ON_SCALE[scale], scale=scale), P, atol=0.003 if scale == "byte" else 1e-6)


@pytest.mark.parametrize("scale", [scale for scale in ON_SCALE if scale != "probability"])
def test_each_scale_is_recognized_when_it_is_not_said(scale):
    with pytest.raises(SuspectError, match="from_logits=True" if scale == "logit" else f"--suspect-scale {scale}"):
        read(ON_SCALE[scale])


def test_scores_of_each_class_against_the_rest_are_named_and_normalized():
    with pytest.raises(SuspectError, match="look like sigmoid scores.*--suspect-scale sigmoid"):
        read(SCORES)
    np.testing.assert_allclose(read(SCORES, scale="sigmoid"), SCORES / SCORES.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("said", SCALES)
@pytest.mark.parametrize("given", ["probability", "percent", "byte"])
def test_plain_probabilities_and_percentages_are_refused_on_every_other_scale(given, said):
    if said == given or (given, said) == ("probability", "sigmoid"):  # sums of 1 are normal: nothing changes
        np.testing.assert_allclose(read(ON_SCALE[given], scale=said), P, atol=0.003)
    else:
        with pytest.raises(SuspectError, match="look like"):
            read(ON_SCALE[given], scale=said)


@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_rounded_and_cut_probabilities_stay_accepted(decimals):
    rounded = np.round(P, decimals)
    np.testing.assert_array_equal(read(rounded), rounded)
    cut = np.where(np.sort(P)[:, -2:-1] <= P, P, 0)
    np.testing.assert_array_equal(read(cut), cut)


def test_a_class_that_the_suspect_lacks_counts_as_0_on_every_scale():
    for scale in ("probability", "log", "logit"):
        found = read(ON_SCALE[scale], 7, scale=scale, classes=range(1, 7))
        np.testing.assert_allclose(found, np.pad(P, ((0, 0), (1, 0))), atol=1e-6)


@pytest.mark.parametrize("scale", ONE_SCORE)
@pytest.mark.parametrize("shape", [(40,), (40, 1)])
def test_one_score_becomes_two_classes(scale, shape):
    found = read(ONE_SCORE[scale].reshape(shape), 2, activation="sigmoid", scale=scale)
    np.testing.assert_allclose(found, np.stack([1 - SURE, SURE], axis=1), atol=1e-6)


def test_logits_of_one_score_never_overflow():
    found = read(np.array([-1e30, -2.0, 0.0, 2.0, 1e30]), 2, activation="sigmoid", scale="logit")
    np.testing.assert_allclose(found[:, 1], [0, 0.11920292, 0.5, 0.88079708, 1])
    with pytest.raises(SuspectError, match="lie between 0 and 1"):
        read(SURE, 2, activation="sigmoid", scale="logit")
    with pytest.raises(SuspectError, match="from_logits=True"):
        read(ODDS, 2, activation="sigmoid")
    with pytest.raises(SuspectError, match="--suspect-scale percent"):
        read(100 * SURE, 2, activation="sigmoid")


def test_several_labels_and_their_forms():
    options = {"positions": (4,), "activation": "sigmoid"}
    many = SURE.reshape(10, 4)
    np.testing.assert_array_equal(read(many, 2, **options), np.stack([1 - many, many], axis=-1))
    for labels in (many > 0.5, (many > 0.5).astype(np.uint8)):
        np.testing.assert_array_equal(read(labels, 2, **options), many > 0.5)
    both = np.stack([1 - many, many], axis=-1)
    np.testing.assert_array_equal(read(both, 2, **options), both)
    two = np.stack([1 - SURE, SURE], axis=1)
    np.testing.assert_array_equal(read(two, 2, activation="sigmoid"), two)
    with pytest.raises(SuspectError, match="10 inputs with an array of shape"):
        read(many[:, :3], 2, **options)


def test_options_name_one_scale():
    assert SuspectOptions(from_logits=True) == SuspectOptions(scale="logit")
    assert cli.SCALES == SCALES
    for wrong in ({"scale": "percentage"}, {"scale": "percent", "from_logits": True}):
        with pytest.raises(ArgumentError, match="scale="):
            SuspectOptions(**wrong)


def test_names_in_other_case_are_understood_where_that_is_unambiguous():
    found = read(np.array(["Cat", " dog ", "CAT", "bird"]), 2, class_names=["cat", "Dog"])
    np.testing.assert_array_equal(found, [0, 1, 0, -1])
    np.testing.assert_array_equal(read(np.array(["a", "A", " A"]), 2, class_names=["a", "A"]), [0, 1, -1])


def test_files_of_names_may_hold_a_byte_order_mark_blanks_and_empty_lines(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfcat \r\n\r\n dog\r\n\r\n")
    assert cli._names(tmp_path / "names.txt") == ["cat", "dog"]


def test_names_that_are_numbers_are_names():
    names = [str(number) for number in range(9, -1, -1)]
    assert read(np.array([9, 0, 3]), 10, class_names=names).tolist() == [0, 9, 6]
    assert read(np.array(["9", "0", "3"]), 10, class_names=names).tolist() == [0, 9, 6]
    from_one = [str(number) for number in range(1, 7)]
    assert read(np.array([1.0, 6.0, 0.0]), class_names=from_one).tolist() == [0, 5, -1]
    np.testing.assert_allclose(read(P, class_names=from_one, classes=[6, 5, 4, 3, 2, 1]), P[:, ::-1])
    assert read(np.array([0, 5]), class_names=[f"digit {number}" for number in range(6)]).tolist() == [0, 5]
