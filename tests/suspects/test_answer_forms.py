"""Forms of answers other than arrays: read where their meaning is clear, else refused with a look at them."""

import json
import re

import numpy as np
import pytest

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.evidence.answers import check_suspect_answers
from dynamarks_tf.suspects.answer_file import AnswerFileSuspect
from dynamarks_tf.suspects.answer_forms import as_array, as_table, from_json_texts
from dynamarks_tf.suspects.function import FunctionSuspect
from dynamarks_tf.suspects.queries import ArrayQueries
from tests.helpers import verifying

NAMES = ["cat", "dog", "cow"]
P = np.array([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]])
HERE = {"scale": "probability", "class_names": NAMES}


def read(given, n=2, **options):
    """What `verify` makes of answers: probabilities in the owner's order, or labels."""
    options = {**HERE, **options}
    table, classes = as_table(as_array(given, n), 3, **options)
    return check_suspect_answers(
        table, n, 3, classes=classes, scale=options["scale"], class_names=options["class_names"]
    )


def pairs(row, label="label", score="score"):
    order = np.argsort(-row)
    return [{label: NAMES[i], score: float(row[i])} for i in order]


@pytest.mark.parametrize(
    "given",
    [
        P.tolist(),
        {"probabilities": P},
        {"predictions": P.tolist()},
        [{"probabilities": row} for row in P.tolist()],
        {"classes": NAMES, "probabilities": P},
        {"classes": ["cow", "dog", "cat"], "scores": P[:, ::-1].tolist(), "model": "v3"},
        {"classes": [NAMES, NAMES], "scores": P.tolist()},
        [{"classes": NAMES, "scores": row} for row in P.tolist()],
        [{"displayNames": NAMES[::-1], "confidences": row[::-1]} for row in P.tolist()],
        [dict(zip(NAMES, row, strict=True)) for row in P.tolist()],
        [dict(zip(["COW", "dog ", "Cat"], row[::-1], strict=True)) for row in P.tolist()],
        [dict(zip([b"cat", b"dog", b"cow"], row, strict=True)) for row in P],
        [dict(zip("012", row, strict=True)) for row in P],  # JSON has no other keys than text
        [{2: row[2], 0: row[0], 1: row[1]} for row in P],
        [pairs(row) for row in P],
        {"predictions": [pairs(row) for row in P]},
        [pairs(row, "class", "probability") for row in P],
        np.array([dict(zip(NAMES, row, strict=True)) for row in P], object),
    ],
)
def test_the_same_answers_in_every_form(given):
    np.testing.assert_allclose(read(given), P)


def test_numbers_are_names_where_the_classes_are_named_by_numbers():
    given = [{"3": 0.7, "1": 0.2, "2": 0.1}, {"1": 0.5, "2": 0.25, "3": 0.25}]
    np.testing.assert_allclose(read(given, class_names=["1", "2", "3"]), [[0.2, 0.1, 0.7], [0.5, 0.25, 0.25]])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([pairs(P[0])[:2], pairs(P[0])[:1]], [[0.7, 0.2, 0], [0.7, 0, 0]]),
        ([{"cat": 0.7}, {"dog": 0.5, "cow": 0.25}], [[0.7, 0, 0], [0, 0.5, 0.25]]),
        ([{"label": "cow", "score": 0.9}, {"label": "cat", "score": 0.8}], [[0, 0, 0.9], [0.8, 0, 0]]),
        ([{"label": "dog", "score": 1.0}, {"label": "dog", "score": 1.0}], [[0, 1, 0], [0, 1, 0]]),
        ([{"label": 1, "score": 1.0}, {"label": 1, "score": 1.0}], [[0, 1, 0], [0, 1, 0]]),
        ({"classes": ["cow", "cat"], "scores": [0.9, 0.8]}, [[0, 0, 0.9], [0.8, 0, 0]]),
    ],
)
def test_what_the_best_classes_leave_out_is_0(given, expected):
    np.testing.assert_allclose(read(given), expected)


@pytest.mark.parametrize(
    "given", [{"cow": 0.6, "cat": 0.4}, [{"cow": 0.6, "cat": 0.4}], [pairs(np.array([0.4, 0.0, 0.6]))]]
)
def test_one_input_may_come_without_a_list(given):
    np.testing.assert_allclose(read(given, 1), [[0.4, 0, 0.6]])
    np.testing.assert_allclose(read(pairs(np.array([0.4, 0.0, 0.6])), 1), [[0.4, 0, 0.6]])


def test_left_out_classes_on_other_scales():
    logs = [{"cat": float(np.log(0.7)), "dog": float(np.log(0.2))}, {"dog": float(np.log(0.5))}]
    np.testing.assert_allclose(read(logs, scale="log"), [[0.7, 0.2, 0], [0, 0.5, 0]], rtol=1e-6)
    np.testing.assert_allclose(read([{"cat": 70, "dog": 20}, {"dog": 50}], scale="percent")[0], [0.7, 0.2, 0])
    whole = [dict(zip(NAMES, row, strict=True)) for row in np.log(P) + 3]
    np.testing.assert_allclose(read(whole, scale="logit"), P, rtol=1e-6)
    with pytest.raises(SuspectError, match=r"answers 2 of 3 classes, such as \{'cat': 4.0, 'dog': -1.0\}.*'logit'"):
        read([{"cat": 4.0, "dog": -1.0}] * 2, scale="logit")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([{"cat": 0.7}], "holds 1 entries for 2 inputs"),
        ([{"cat": 0.7}, [0.1, 0.2, 0.7]], r"\[0.1, 0.2, 0.7\] does not name a score for each class"),
        ([{"cat": 0.7}, {}], r"answer \{\} does not name"),
        ([{"cat": "high"}, {"cat": "low"}], "holds 'high' where a number is expected"),
        ([{"cat": True}, {"cat": False}], "holds True where a number"),
        ([{0.5: 0.7}, {0.5: 0.7}], "holds 0.5 where a class, a name or a whole number"),
        ([pairs(P[0]) + pairs(P[0]), pairs(P[1])], "names a class twice"),
        ([[{"label": "cat"}], [{"label": "dog"}]], r"\{'label': 'cat'\} does not hold one label and one score"),
        ([{"label": "cat", "class": "dog", "score": 1.0}] * 2, "holds both 'label' and 'class'"),
        ([{"classes": NAMES, "scores": [0.5]}] * 2, r"holds \(3,\) classes and \(1,\) scores"),
        ({"classes": NAMES, "scores": [[0.5], [0.5, 0.1]]}, "lists of different lengths"),
        ({"classes": NAMES, "probabilities": P[:1]}, "not clear as the answer to 2 inputs"),
        ({"classes": NAMES[:2], "probabilities": P}, "not clear as the answer to 2 inputs"),
        ({"cat": [0.1, 0.2], "dog": [0.9, 0.8]}, "not clear as the answer to 2 inputs"),
        ([{"caf\u00e9\x1b[31m" * 90: "x"}] * 2, r"caf\\xe9"),
    ],
)
def test_what_is_not_clear_is_quoted(given, text):
    with pytest.raises(SuspectError, match=text) as error:
        read(given)
    assert "Accepted: an array" in str(error.value)
    assert str(error.value).isascii()
    assert len(str(error.value)) < 700


def test_names_need_the_names_of_the_owner():
    given = [{"cat": 0.7}, {"dog": 0.5}]
    with pytest.raises(SuspectError, match=r"such as \{'cat': 0.7\}. Say which class .*--class-names FILE"):
        read(given, class_names=None)
    with pytest.raises(SuspectError, match=r"Leave `align_classes` \(--align-classes\) out"):
        as_table(as_array(given, 2), 3, align_classes=True, **HERE)
    with pytest.raises(SuspectError, match="columns stand for cat, bird; the owner's classes are named cat, dog, cow"):
        read([{"cat": 0.7}, {"bird": 0.5}])


def test_texts_that_hold_json_are_read():
    texts = np.array([json.dumps(pairs(row)) for row in P], object)
    np.testing.assert_allclose(read(from_json_texts(texts)), P)
    labels = np.array(["cat", "{dog"], object)
    assert from_json_texts(labels) is labels
    broken = np.array(["{dog", "[cow"], object)
    assert from_json_texts(broken) is broken


def test_functions_and_files_of_answers(tmp_path):
    queries = np.arange(4.0).reshape(2, 2)
    with pytest.raises(SuspectError, match="^The suspect's answer"):
        FunctionSuspect(lambda batch: [{"cat": "x"}] * 2).predict(queries)
    path = tmp_path / "answers.jsonl"
    rows = [{"query": 1, "answers": pairs(P[1])[:1]}, {"query": 0, "answers": dict(zip(NAMES, P[0], strict=True))}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    suspect = AnswerFileSuspect(path, ArrayQueries(queries))
    np.testing.assert_allclose(read(suspect.predict(queries)), [P[0], [0, 0.5, 0]])
    path.write_text("".join(json.dumps({"answers": {"cat": score}}) + "\n" for score in (0.5, 0.6)))
    with pytest.raises(SuspectError, match="answers the same input differently in rows 0 and 1"):
        AnswerFileSuspect(path, ArrayQueries(queries[[0, 0]]))


def test_verify_finds_the_mark_in_dictionaries(marked_model, surrogate, key, digits):
    names = [f"digit {number}" for number in range(10)]
    queries = digits.x_test[:300]

    def best_five(batch):
        answers = np.asarray(surrogate.predict(batch, verbose=0), float)
        best = np.argsort(-answers, axis=1)[:, :5]
        return [[{"label": names[i], "score": row[i]} for i in order] for row, order in zip(answers, best, strict=True)]

    def cut(batch):
        answers = np.asarray(surrogate.predict(batch, verbose=0), float)
        return np.where(answers >= np.sort(answers, axis=1)[:, -5:-4], answers, 0)

    options = {"owner": marked_model, "key": key, "queries": queries}
    expected = verifying.verify(cut, **options)
    result = verifying.verify(best_five, **options, class_names=names)
    assert result.log10_p == pytest.approx(expected.log10_p, abs=0.05)
    with pytest.raises(SuspectError, match=re.escape("such as {'digit")):
        verifying.verify(lambda batch: [{names[0]: 1.0} for _ in batch], **options)


def test_names_that_are_digits_are_names_in_dictionaries_too():
    answers = as_array([{"9": 0.7, "8": 0.2, "7": 0.1}, {"7": 0.9, "9": 0.06, "8": 0.04}], 2)
    names = ["9", "8", "7"]
    table, classes = as_table(answers, 3, scale="probability", class_names=names)
    checked = check_suspect_answers(table, 2, 3, class_names=names, classes=classes)
    np.testing.assert_allclose(checked, [[0.7, 0.2, 0.1], [0.06, 0.04, 0.9]])
