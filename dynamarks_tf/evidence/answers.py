"""What a suspect's answers must look like to serve as evidence. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import ArgumentError, SuspectError
from dynamarks_tf.evidence import answer_scale

Array = npt.NDArray[Any]

UNKNOWN_CLASS = -1
MOST_LABELS = 2**31


def check_suspect_answers(
    answers: Array,
    num_inputs: int,
    num_classes: int,
    *,
    positions: tuple[int, ...] = (),
    scale: str = "probability",
    activation: str = "softmax",
    class_names: Sequence[str] | None = None,
    classes: Sequence[Any] | None = None,
    align_classes: bool = False,
) -> Array:
    """Checks one batch of a suspect's answers and returns them as probabilities or as class indices.

    Rounded and truncated probabilities are accepted: an attacker may have post-processed them. Labels are told by their
    form: one whole number or one name for each input, or for each position of it.

    Args:
        answers: what the suspect returned.
        num_inputs: how many inputs it was given, n.
        num_classes: how many classes the owner model has, C.
        positions: how many answers the owner model gives to each input, `(H, W)` for dense prediction, `(T,)` for
            sequences; `()` if one.
        scale: what the suspect's numbers are, one of `answer_scale.SCALES`.
        activation: of the owner model. With `"sigmoid"`, C is 2, `positions` holds the labels last, and the suspect may
            answer one score for each label, that of class 1; for a single label, also of shape `(n, 1)`.
        class_names: names of the owner's classes, in their order, for a suspect that answers names.
        classes: what the columns of the answers stand for, class indices or names; `None` for the owner's order.
        align_classes: whether the order of the classes is found later. Columns then stay as they are, however many, and
            labels keep their numbers.

    Returns:
        Probabilities, floating-point, shape `(n, *positions, C)`; or class indices, int64 of shape `(n, *positions)`,
        -1 for a class that the owner model does not know.

    Raises:
        SuspectError: the answers are no evidence; the message says why and what to do.
    """
    if positions:
        shape = (num_inputs, *positions)
        if answers.shape[: len(shape)] != shape:
            raise SuspectError(
                f"The suspect answered {num_inputs} inputs with an array of shape {answers.shape}; the owner model "
                f"answers each at {' x '.join(map(str, positions))} positions: expected {(*shape, num_classes)}, or "
                f"labels of shape {shape}. Wrap the suspect in a callable that brings its answers into that shape."
            )
        each = answers.reshape(-1, *answers.shape[len(shape) :])
        checked = check_suspect_answers(
            each,
            len(each),
            num_classes,
            scale=scale,
            activation=activation,
            class_names=class_names,
            classes=classes,
            align_classes=align_classes,
        )
        return checked.reshape(*shape, *checked.shape[1:])
    if answers.dtype.name == "bfloat16":
        answers = answers.astype(np.float32)
    labels = _column(answers, num_inputs)
    if answers.dtype.kind in "OSU":
        if labels is None:
            raise SuspectError(f"The suspect answers text of shape {answers.shape}; expected one name for each input.")
        return _named(labels, class_names)
    if answers.dtype.kind not in "fiu" and answers.dtype != bool:
        raise SuspectError(f"The suspect answers values of type {answers.dtype}; expected numbers or class names.")
    if labels is not None and activation == "sigmoid" and answers.dtype.kind == "f":
        return answer_scale.scores(_finite(labels[:, None], scale)[:, 0], scale)
    if labels is not None and num_classes > 1:
        return _numbered(labels, MOST_LABELS if align_classes else num_classes, class_names)
    if answers.ndim != 2 or answers.shape[0] != num_inputs:
        raise SuspectError(
            f"The suspect answered {num_inputs} inputs with an array of shape {answers.shape}; expected "
            f"({num_inputs}, {num_classes}), one probability vector for each input, or ({num_inputs},), one label."
        )
    if align_classes:
        return answer_scale.vectors(_finite(answers, scale), scale)
    if classes is None and answers.shape[1] != num_classes:
        raise SuspectError(
            f"The suspect answers {answers.shape[1]} classes, the owner model {num_classes}. Wrap the suspect in a "
            "callable that brings its classes into the order of the owner model, or have the order found from the "
            "answers: SuspectOptions(align_classes=True) (--align-classes)."
        )
    columns = None if classes is None else _columns(answers, classes, num_classes, class_names)
    probabilities = answer_scale.vectors(_finite(answers, scale), scale)
    if columns is None:
        return probabilities
    ordered = np.zeros((num_inputs, num_classes), probabilities.dtype)  # a class that the suspect does not know gets 0
    ordered[:, columns] = probabilities
    return ordered


def _finite(answers: Array, scale: str) -> Array:
    """The answers as float32 or float64, without NaN and infinity; a logarithm or logit may be -inf."""
    if answers.dtype not in (np.float32, np.float64):
        answers = answers.astype(np.float32)
    is_fine = np.isfinite(answers)
    if scale in ("log", "logit") and answers.shape[1] > 1:  # a class that is left out; one must be there
        is_fine = (is_fine | np.isneginf(answers)) & is_fine.any(axis=1, keepdims=True)
    not_finite = ~is_fine.all(axis=1)
    if not_finite.any():
        raise SuspectError(
            f"The suspect answered {int(not_finite.sum())} of {len(answers)} inputs with NaN or infinity. Check that "
            "the inputs are prepared as the suspect expects them (scale, type)."
        )
    return answers


def main_class(p: Array) -> Array:
    """The class that each input is best described by: the predicted one, or the one predicted at most positions.

    Args:
        p: probabilities, shape `(n, ..., C)`.

    Returns:
        Ints of shape `(n,)`; the first among equals.
    """
    predicted = p.argmax(axis=-1)
    if predicted.ndim == 1:
        return np.asarray(predicted)
    return np.array([np.bincount(one.ravel()).argmax() for one in predicted], np.intp)


def confidence(p: Array) -> Array:
    """How sure a model is of each input: its largest probability, on average over the positions; shape `(n,)`."""
    return np.asarray(p.max(axis=-1).reshape(len(p), -1).mean(axis=1))


def is_one_hot(answers: Array) -> bool:
    """Whether each row holds a single 1 and zeros: class labels in disguise."""
    parts = answers[:1], answers[1:]  # nearly always, one row shows that they are not
    return all(np.all((part == 0) | (part == 1)) and np.all(part.sum(axis=-1) == 1) for part in parts)


def check_class_names(class_names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Returns the names of the owner's classes.

    Raises:
        ArgumentError: there are not as many different names as classes.
    """
    names = tuple(class_names)
    if isinstance(class_names, str) or len(names) != num_classes or not all(isinstance(name, str) for name in names):
        raise ArgumentError(
            f"`class_names` must hold one text for each of the {num_classes} classes, in the owner's order. Received: "
            f"{len(names)} entries"
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ArgumentError(f"`class_names` must be different for each class. Received: {twice!r} twice")
    return names


def _column(answers: Array, num_inputs: int) -> Array | None:
    """The answers as one value for each input, if that is what they are."""
    if answers.shape in ((num_inputs,), (num_inputs, 1)):
        return answers.reshape(num_inputs)
    return None


def _numbered(labels: Array, num_classes: int, class_names: Sequence[str] | None = None) -> Array:
    """Class indices of numbers, which are names where the owner's classes are named by numbers."""
    numbers = labels.astype(np.int64)
    if labels.dtype.kind == "f" and not np.array_equal(numbers, labels):
        raise SuspectError(
            f"The suspect answers one value for each input, such as {labels[numbers != labels][0]:.4g}, which is no "
            "class index. Ask it for a probability vector or a label for each input."
        )
    if named := _numbers_that_are_names(class_names or ()):
        return np.array([named.get(number, UNKNOWN_CLASS) for number in numbers.tolist()], np.int64)
    return np.where((numbers >= 0) & (numbers < num_classes), numbers, UNKNOWN_CLASS)


def _numbers_that_are_names(class_names: Sequence[str]) -> dict[int, int]:
    """The class of each number that is a name; the plain form goes before one with zeros in front."""
    written = [(name.strip(), index) for index, name in enumerate(class_names) if name.strip().isdecimal()]
    any_form = {int(name): index for name, index in written}
    return any_form | {int(name): index for name, index in written if name == str(int(name))}


def _named(labels: Array, class_names: Sequence[str] | None) -> Array:
    if class_names is None:
        raise SuspectError(
            f"The suspect answers class names, such as {_text(labels[0])!r}. Say which class each name stands for: "
            "class_names=[...] in the owner's order (--class-names FILE, one name a line)."
        )
    number = {name: index for index, name in enumerate(class_names)}
    plain = [name.strip().casefold() for name in class_names]
    is_clear = len(set(plain)) == len(plain)  # otherwise case and blanks tell classes apart
    by_plain = {name: index for index, name in enumerate(plain)} if is_clear else {}
    texts = [_text(label) for label in labels]
    return np.array(
        [number.get(text, by_plain.get(text.strip().casefold(), UNKNOWN_CLASS)) for text in texts], np.int64
    )


def _columns(answers: Array, classes: Sequence[Any], num_classes: int, class_names: Sequence[str] | None) -> Array:
    """The owner's class of each column of the answers, ints of shape `(columns,)`."""
    if answers.shape[1] != len(classes):
        raise SuspectError(f"The suspect answers {answers.shape[1]} columns and says what {len(classes)} stand for.")
    by_name = all(isinstance(name, (str, bytes)) for name in classes)
    labels = np.array([_text(name) if by_name else name for name in classes])
    columns = _named(labels, class_names) if by_name else _numbered(labels, num_classes, class_names)
    if (columns == UNKNOWN_CLASS).any() or len(set(columns.tolist())) < len(columns):
        known = (
            f"named {', '.join(class_names)}" if by_name and class_names else f"numbered from 0 to {num_classes - 1}"
        )
        raise SuspectError(
            f"The suspect's columns stand for {', '.join(map(str, labels.tolist()))}; the owner's classes are "
            f"{known}. Name them as the suspect does (--class-names FILE), or wrap it in a callable that puts its "
            "columns into the owner's order."
        )
    return columns


def _text(label: Any) -> str:
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)
