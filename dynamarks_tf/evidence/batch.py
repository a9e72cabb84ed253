"""One batch of answers, and what several channels need to know of it, worked out once.

NumPy is fast along long axes only. Answers with few classes are therefore also kept class by class, where the longest
axis is that of the queries; answers with many classes are left as they came.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

NARROW = 64  # up to so many classes


class Batch:
    """The answers of clean owner model and suspect to the same n queries. They must not be changed afterwards.

    Args:
        clean: the clean owner model's probabilities, shape `(n, C)`.
        suspect: the suspect's probabilities, shape `(n, C)`; or class indices, shape `(n,)`, where -1 stands for a
            class that the owner model does not know.

    Example:

    >>> batch = Batch(np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    >>> batch.top, batch.num_agreeing
    (array([0, 1]), 1)
    """

    def __init__(self, clean: Array, suspect: Array) -> None:
        self.clean = clean
        self.suspect = suspect

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def has_labels(self) -> bool:
        """Whether the suspect answers class indices."""
        return self.suspect.ndim == 1

    @property
    def is_narrow(self) -> bool:
        """Whether there are probabilities of so few classes that they are better taken class by class."""
        return not self.has_labels and self.clean.shape[1] <= NARROW

    @functools.cached_property
    def top(self) -> Array:
        """The clean model's best class for each query, ints of shape `(n,)`."""
        return np.asarray(self.clean.argmax(axis=1))

    @functools.cached_property
    def best(self) -> Array:
        """The probability of that class, shape `(n,)`."""
        return self._largest[0] if self.is_narrow else np.asarray(self.clean[np.arange(len(self)), self.top])

    @functools.cached_property
    def by_class(self) -> Array:
        """Probabilities of clean model and suspect in one array of shape `(2, C, n)`."""
        answers = np.empty((2, *self.clean.shape[::-1]), np.result_type(self.clean, self.suspect))
        answers[0], answers[1] = self.clean.T, self.suspect.T
        return answers

    @functools.cached_property
    def is_best(self) -> Array:
        """Which class is best, for clean model and suspect: one for each query, bools of shape `(2, C, n)`."""
        found = np.asarray(self.by_class == self._largest[:, None])
        if np.count_nonzero(found) > 2 * len(self):  # of equal classes the first is best, as for `argmax`
            found = np.arange(found.shape[1])[:, None] == self.by_class.argmax(axis=1)[:, None]
        return found

    @functools.cached_property
    def _largest(self) -> Array:
        return np.asarray(self.by_class.max(axis=1))

    @functools.cached_property
    def num_agreeing(self) -> int:
        """For how many queries clean model and suspect have the same best class."""
        if self.is_narrow:
            return int(np.count_nonzero(self.is_best[0] & self.is_best[1]))
        return int(np.count_nonzero(self.top == (self.suspect if self.has_labels else self.suspect.argmax(axis=1))))

    def only(self, queries: Array) -> Batch:
        """The batch of some of the queries, given by increasing indices."""
        return self if len(queries) == len(self) else Batch(self.clean[queries], self.suspect[queries])
