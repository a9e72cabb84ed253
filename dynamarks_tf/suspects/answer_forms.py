"""Forms of answers other than arrays: dictionaries, lists of labels with scores, the best classes only.

`as_array` keeps one mapping from class to score for each input; `as_table` makes an array with named columns of a batch
of them. What could be read in two ways is refused, and the message quotes it.
"""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import strict_json
from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.answer_sizes import check_texts
from dynamarks_tf.suspects.batches import brief

Array = npt.NDArray[Any]
Row = dict[Any, float]  # from class, an index or a name, to score

ACCEPTED = (
    'an array; {"cat": 0.9, "dog": 0.1} or [{"label": "cat", "score": 0.9}, ...] for each input; or '
    '{"classes": [...], "probabilities": [...]}. Wrap the suspect in a callable that returns one of these.'
)

_LABEL = ("label", "class", "class_name", "class_id", "name")
_LABELS = ("classes", "labels", "class_names", "names", "displayNames")
_SCORE = ("score", "probability", "confidence", "prob")
_SCORES = ("probabilities", "scores", "confidences", "probs")
_WRAPPERS = ("predictions", "outputs", "answers", "results", *_SCORES)
_MOST_WRAPPERS = 4
_WHOLE_ANSWERS_ONLY = ("sigmoid", "logit")  # what is left out of these is not 0


def as_array(given: Any, num_inputs: int, *, wrapped: int = 0) -> Array:
    """Brings the answers to one batch into an array.

    Args:
        given: what the suspect answered: anything that `numpy.asarray` understands, or one of the forms above.
        num_inputs: how many inputs it was given, n.
        wrapped: out of how many wrappers, such as `{"predictions": ...}`, they were taken already.

    Returns:
        Plain answers as an array, as they are; others as `dict` objects, class to score, of shape `(n,)`.

    Raises:
        SuspectError: the answers name classes in a form that is not clear.
        ValueError: NumPy makes no array of them.

    Example:

    >>> as_array([{"label": "cat", "score": 0.9}], 1)
    array([{'cat': 0.9}], dtype=object)
    """
    if isinstance(given, Mapping):
        return _from_mapping(given, num_inputs, wrapped)
    if not _holds_mappings(given):
        check_texts(given)
        return np.asarray(given)
    answers = list(given)
    if num_inputs == 1 and len(answers) != 1 and all(_is_pair(answer) for answer in answers):
        answers = [answers]  # the classes of the only input
    if len(answers) != num_inputs:
        raise _unclear(given, f"holds {len(answers)} entries for {num_inputs} inputs")
    keys = {_only_key(answer, _SCORES) for answer in answers}
    if len(keys) == 1 and None not in keys:  # a vector for each input, in the owner's order
        return np.asarray([answer[keys.copy().pop()] for answer in answers])
    return _rows([_row(answer) for answer in answers])


def as_table(
    answers: Array, num_classes: int, *, scale: str, class_names: Sequence[str] | None, align_classes: bool = False
) -> tuple[Array, tuple[Any, ...] | None]:
    """Makes an array with a column for each class of answers that `as_array` returned.

    Args:
        answers: answers to one batch; arrays of anything but mappings stay as they are.
        num_classes: how many classes the owner model has, C.
        scale: what the scores are. A class that an answer leaves out gets 0, or minus infinity as a logarithm.
        class_names: names of the owner's classes, in their order.
        align_classes: whether the order of the classes is to be found from the answers.

    Returns:
        The answers, shape `(n, K)`, and the classes of their columns, indices or names; `None` if the answers are an
        array of something else.

    Raises:
        SuspectError: the owner's classes have no names, or a class that is left out cannot be taken for 0.
    """
    if not is_structured(answers):
        return answers, None
    rows: list[Row] = [_by_number(row) for row in answers]
    classes = list(dict.fromkeys(label for row in rows for label in row))
    if len({type(label) for label in classes}) > 1:  # "1" in one answer, "cat" in another: all are names
        rows = [{str(label): score for label, score in row.items()} for row in rows]
        classes = list(dict.fromkeys(str(label) for label in classes))
    if align_classes:
        raise SuspectError(
            f"The suspect names the classes in its answers, such as {_shown(answers[0])}, so that there is no order to "
            "find. Leave `align_classes` (--align-classes) out and say what the names stand for: class_names=[...] "
            "(--class-names FILE)."
        )
    if class_names is None and isinstance(classes[0], str):
        raise SuspectError(
            f"The suspect names the classes in its answers, such as {_shown(answers[0])}. Say which class each name "
            "stands for: class_names=[...] in the owner's order (--class-names FILE, one name a line)."
        )
    shortest = min(rows, key=len)
    if scale in _WHOLE_ANSWERS_ONLY and len(shortest) < num_classes:
        raise SuspectError(
            f"The suspect answers {len(shortest)} of {num_classes} classes, such as {_shown(shortest)}. Numbers on the "
            f"scale {scale!r} say nothing without the others. Ask it for all classes, or for probabilities."
        )
    if len(classes) == 1:  # one column alone would be taken for labels
        classes.append(_another(classes[0], class_names))
    table = np.full((len(rows), len(classes)), -np.inf if scale == "log" else 0.0)
    column = {label: index for index, label in enumerate(classes)}
    for number, row in enumerate(rows):
        table[number, [column[label] for label in row]] = list(row.values())
    return table, tuple(classes)


def is_structured(answers: Array) -> bool:
    """Whether answers are mappings from class to score."""
    return answers.dtype == object and answers.ndim == 1 and len(answers) > 0 and isinstance(answers[0], Mapping)


def from_json_texts(texts: Array) -> Any:
    """Reads answers that a server wrote as one JSON text for each input; other texts stay as they are."""
    values = texts.ravel().tolist()
    if not values or not all(isinstance(text, str) and text.lstrip()[:1] in ("{", "[") for text in values):
        return texts
    try:
        return [strict_json.parse(text, numbers_only=False) for text in values]
    except ValueError:
        return texts


def _from_mapping(given: Mapping[Any, Any], num_inputs: int, wrapped: int) -> Array:
    """One mapping for the whole batch."""
    wrapper = _only_key(given, _WRAPPERS)
    if wrapper is not None and wrapped < _MOST_WRAPPERS:
        return as_array(given[wrapper], num_inputs, wrapped=wrapped + 1)
    names = _parallel(given)
    if names is not None:
        labels, scores = _plain(given[names[0]], given), _plain(given[names[1]], given)
        if scores.ndim == 2 and len(scores) == num_inputs and labels.shape in (scores.shape, scores.shape[1:]):
            rows = zip(np.broadcast_to(labels, scores.shape).tolist(), scores.tolist(), strict=True)
            return _rows([_paired(*row, given) for row in rows])
        if num_inputs > 1 and scores.shape == labels.shape == (num_inputs,):  # the best class of each input
            best = zip(labels.tolist(), scores.tolist(), strict=True)
            return _rows([_paired([label], [score], given) for label, score in best])
    if num_inputs == 1:
        return _rows([_row(given)])
    raise _unclear(given, f"is not clear as the answer to {num_inputs} inputs")


def _row(answer: Any) -> Row:
    """The scores of one input, by class."""
    if _is_list(answer) and len(answer) and all(isinstance(one, Mapping) for one in answer):
        pairs = [_pair(one) for one in answer]
        return _paired([label for label, _ in pairs], [score for _, score in pairs], answer)
    if not isinstance(answer, Mapping) or not answer:
        raise _unclear(answer, "does not name a score for each class, as other answers do")
    names = _parallel(answer)
    if names is not None:
        labels, scores = _plain(answer[names[0]], answer), _plain(answer[names[1]], answer)
        if labels.ndim != 1 or labels.shape != scores.shape:
            raise _unclear(answer, f"holds {labels.shape} classes and {scores.shape} scores")
        return _paired(labels.tolist(), scores.tolist(), answer)
    if _is_pair(answer):
        label, score = _pair(answer)
        return _paired([label], [score], answer)
    return _paired(list(answer.keys()), list(answer.values()), answer)


def _pair(answer: Mapping[Any, Any]) -> tuple[Any, Any]:
    label, score = _only_one(answer, _LABEL), _only_one(answer, _SCORE)
    if label is None or score is None:
        raise _unclear(answer, "does not hold one label and one score")
    return answer[label], answer[score]


def _paired(labels: Sequence[Any], scores: Sequence[Any], given: Any) -> Row:
    if not labels or len(labels) != len(scores):
        raise _unclear(given, f"holds {len(labels)} classes and {len(scores)} scores")
    for score in scores:
        if isinstance(score, (bool, np.bool_)) or not isinstance(score, numbers.Real):
            raise _unclear(given, f"holds {_shown(score)} where a number is expected")
    row = {_label(label, given): float(score) for label, score in zip(labels, scores, strict=True)}
    if len(row) < len(labels):
        raise _unclear(given, "names a class twice")
    return row


def _label(label: Any, given: Any) -> int | str:
    if isinstance(label, bytes):
        label = label.decode("utf-8", "replace")
    if isinstance(label, str):
        return label
    if not isinstance(label, bool) and isinstance(label, numbers.Integral):
        return int(label)
    raise _unclear(given, f"holds {_shown(label)} where a class, a name or a whole number, is expected")


def _by_number(row: Row) -> Row:
    """The same row by class indices where all its names are whole numbers: JSON has only text as keys."""
    if not all(isinstance(label, str) and label.isascii() and label.isdecimal() for label in row):
        return row
    by_number = {int(label): score for label, score in row.items()}
    return by_number if len(by_number) == len(row) else row


def _another(label: Any, class_names: Sequence[str] | None) -> Any:
    """A class of the owner that is not this one."""
    if isinstance(label, str):
        plain = label.strip().casefold()
        others = [name for name in class_names or () if name != label]
        return next((name for name in others if name.strip().casefold() != plain), others[0])
    numbered = [int(name) for name in class_names or () if name.strip().isdecimal()] or [0, 1]
    return next((number for number in numbered if number != label), label + 1)


def _parallel(answer: Mapping[Any, Any]) -> tuple[Any, Any] | None:
    """The keys of a list of classes and of the list of their scores."""
    labels, scores = _only_one(answer, _LABELS), _only_one(answer, _SCORES)
    return None if labels is None or scores is None else (labels, scores)


def _only_one(answer: Mapping[Any, Any], names: Sequence[str]) -> Any:
    found = [name for name in names if name in answer]
    if len(found) > 1:
        raise _unclear(answer, f"holds both {found[0]!r} and {found[1]!r}")
    return found[0] if found else None


def _only_key(answer: Any, names: Sequence[str]) -> Any:
    """The key of a mapping of a single list, if it is one of these names."""
    if not isinstance(answer, Mapping) or len(answer) != 1:
        return None
    ((key, value),) = answer.items()
    return key if key in names and not isinstance(value, numbers.Real) else None


def _is_pair(answer: Any) -> bool:
    return (
        isinstance(answer, Mapping)
        and any(isinstance(answer.get(name), (str, bytes, numbers.Integral)) for name in _LABEL)
        and any(name in answer for name in _SCORE)
    )


def _is_list(given: Any) -> bool:
    return isinstance(given, (list, tuple)) or (isinstance(given, np.ndarray) and given.ndim > 0)


def _holds_mappings(given: Any) -> bool:
    if isinstance(given, np.ndarray) and given.dtype != object:
        return False
    return _is_list(given) and any(
        isinstance(one, Mapping) or (_is_list(one) and len(one) > 0 and isinstance(one[0], Mapping)) for one in given
    )


def _plain(values: Any, given: Any) -> Array:
    check_texts(values)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise _unclear(given, f"holds lists of different lengths ({brief(error)})") from error
    if array.dtype == object:
        raise _unclear(given, "holds something else than lists of names and numbers")
    return array


def _rows(rows: list[Row]) -> Array:
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def _shown(value: Any) -> str:
    """A value of the suspect, cut short, in ASCII."""
    return reprlib.repr(value).encode("ascii", "backslashreplace").decode("ascii")


def _unclear(given: Any, problem: str) -> SuspectError:
    return SuspectError(f"The suspect's answer {_shown(given)} {problem}. Accepted: {ACCEPTED}")
