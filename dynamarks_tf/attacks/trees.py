"""Surrogates of vectors made of decision trees, by scikit-learn, which is optional.

Soft labels are learned by regression: the forest learns the probabilities, boosting their logarithms.

Reference:
    Why do tree-based models still outperform deep learning on typical tabular data?, L. Grinsztajn et al.,
    NeurIPS 2022.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import ArgumentError

Array = npt.NDArray[Any]

_FLOOR = 1e-4  # smallest probability whose logarithm is learned


def is_installed() -> bool:
    """Whether scikit-learn is there."""
    return importlib.util.find_spec("sklearn") is not None


class TreeSurrogate:
    """Decision trees that learn answers and give probabilities, called like a function.

    Args:
        kind: `"random_forest"` or `"boosted_trees"`.
        num_classes: number of classes.

    Raises:
        ArgumentError: scikit-learn is not installed.
    """

    def __init__(self, kind: str, num_classes: int) -> None:
        if not is_installed():
            raise ArgumentError(f"The surrogate {kind} takes scikit-learn: pip install 'dynamarks_tf[demo]'.")
        self._num_classes, self._learns_logs = num_classes, kind == "boosted_trees"
        self._model: Any = _boosted() if self._learns_logs else _forest()

    def fit(self, inputs: Array, targets: Array) -> TreeSurrogate:
        """Trains on probabilities of shape `(n, C)` or class indices of shape `(n,)`."""
        soft = np.eye(self._num_classes)[targets] if targets.ndim == 1 else targets
        with _one_thread():
            self._model.fit(inputs, np.log(np.maximum(soft, _FLOOR)) if self._learns_logs else soft)
        return self

    def __call__(self, inputs: Array) -> Array:
        """Answers vectors of shape `(n, features)` with probabilities of shape `(n, C)`."""
        with _one_thread():
            found = np.asarray(self._model.predict(inputs), np.float64)
        found = np.exp(found - found.max(axis=1, keepdims=True)) if self._learns_logs else np.maximum(found, 0)
        return np.asarray(found / found.sum(axis=1, keepdims=True), np.float32)


def random_forest(vectors: Array, num_classes: int) -> TreeSurrogate:
    """Vectors to a random forest (scikit-learn)."""
    return TreeSurrogate("random_forest", num_classes)


def boosted_trees(vectors: Array, num_classes: int) -> TreeSurrogate:
    """Vectors to gradient-boosted trees, an ensemble for each class (scikit-learn)."""
    return TreeSurrogate("boosted_trees", num_classes)


def _forest() -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(100, random_state=0)


def _boosted() -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.multioutput import MultiOutputRegressor

    return MultiOutputRegressor(HistGradientBoostingRegressor(random_state=0))


def _one_thread() -> Any:
    """A context in which boosting uses one thread: on a busy machine, several take minutes to wait for each other."""
    from threadpoolctl import threadpool_limits  # which scikit-learn requires

    return threadpool_limits(1, "openmp")


TREES = {build.__name__: build for build in (random_forest, boosted_trees)}
