"""A fitted classifier of scikit-learn, or of a library with the same interface, as a suspect."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import texts
from dynamarks_tf.suspects.batches import closed, refusal

Array = npt.NDArray[Any]


class EstimatorSuspect:
    """A fitted classifier, asked by `predict_proba`, or by `predict` for labels where it has none.

    Args:
        estimator: the classifier. Batches are flattened to `(n, features)`, in row-major order; one
            text each is given as `str` objects of shape `(n,)`.

    Attributes:
        classes: what the columns of the answers stand for: `estimator.classes_`. `None` if it answers labels.

    Example:
        >>> EstimatorSuspect(RandomForestClassifier().fit(x, y)).predict(images).shape
        (256, 10)
    """

    input_shape: tuple[int | None, ...] | None = None

    def __init__(self, estimator: Any) -> None:
        self.description = f"estimator {type(estimator).__name__}"
        has_probabilities = hasattr(estimator, "predict_proba")
        self._answer: Any = estimator.predict_proba if has_probabilities else estimator.predict
        self.classes: tuple[Any, ...] | None = tuple(estimator.classes_) if has_probabilities else None

    def predict(self, batch: Array) -> Array:
        """Answers one batch; an exception of the classifier is the cause of the `SuspectError`."""
        if self._answer is None:
            raise closed(self.description)
        try:
            rows = batch.reshape(len(batch), -1)
            if texts.may_be_text(batch):
                rows = texts.decoded(rows)
                rows = rows[:, 0] if rows.shape[1] == 1 else rows  # vectorizers take a list of texts
            return np.asarray(self._answer(rows))
        except Exception as error:
            raise refusal(self.description, batch, f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Releases the classifier."""
        self._answer = None


def is_estimator(suspect: Any) -> bool:
    """Tells whether something has the interface of a fitted classifier."""
    return hasattr(suspect, "classes_") and hasattr(suspect, "predict")
