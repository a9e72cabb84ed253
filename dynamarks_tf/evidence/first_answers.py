"""The answers to the first query of each secret sign, kept until everything was asked.

Amplitude and class-choice channels look at them. Those channels explain the suspect's answers by the clean model's
(`regression`), which takes all answers at once. While answers come in, they are only put in their place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.meetings import ClassMeetings, num_class_cells
from dynamarks_tf.evidence.reference_answers import mean_doubt, mean_logs
from dynamarks_tf.evidence.regression import REGRESSED_CLASSES, regressors, unexplained
from dynamarks_tf.evidence.residuals import floored_log
from dynamarks_tf.watermark.keyed_hash import HASH_SIZE, KeyedHash
from dynamarks_tf.watermark.params import MarkParams

Array = npt.NDArray[Any]


class FirstAnswers:
    """Keeps the first answer in each cell (group of the predicted class, column of the hash).

    Args:
        keyed_hash: which cell an output meets.
        params: settings of the mark.
        met_before: cells that other queries met first, bools of shape `(num_class_cells(C),)`; none by default.
        every_class: whether to keep the suspect's probabilities of all classes, not of the predicted one alone.
        with_references: whether reference models answer beside the clean one.

    Example:

    >>> first = FirstAnswers(codebook.keyed_hash, params)
    >>> first.add(Batch(clean_probabilities, suspect_probabilities))
    >>> amplitude_channel.residuals(first)
    """

    def __init__(
        self,
        keyed_hash: KeyedHash,
        params: MarkParams,
        met_before: npt.NDArray[np.bool_] | None = None,
        *,
        every_class: bool = False,
        with_references: bool = False,
    ) -> None:
        self.num_groups = keyed_hash.num_class_groups
        self.classes = keyed_hash.hashed_classes[:REGRESSED_CLASSES]
        num_cells = num_class_cells(keyed_hash.num_classes, keyed_hash.num_labels)
        self._meetings = ClassMeetings(keyed_hash, params, met_before)
        # One row for each cell met, in the order in which they were; the system finds the memory when it is filled.
        self._size = self._num_answers = 0
        self._times = np.empty(num_cells, np.int64)
        self._cells = np.empty(num_cells, np.intp)
        self._clean = np.empty((num_cells, len(self.classes)))
        self._best = np.empty(num_cells)
        self._suspect_of_top = np.empty(num_cells)
        self._suspect = np.empty((num_cells, keyed_hash.num_classes)) if every_class else None
        self._references = (np.empty(num_cells), np.empty_like(self._clean)) if with_references else None

    def add(self, batch: Batch) -> Array:
        """Adds one batch of probabilities.

        Returns:
            Which of its queries are the first of their cell: increasing ints of shape `(k,)`.
        """
        first, cells = self._meetings.among(batch)
        rows = slice(self._size, self._size + len(first))
        self._cells[rows] = cells
        self._clean[rows] = batch.clean[first[:, None], self.classes]
        self._best[rows] = batch.best[first]
        self._suspect_of_top[rows] = batch.suspect[first, batch.top[first]]
        if self._suspect is not None:
            self._suspect[rows] = batch.suspect[first]
        if self._references is not None and batch.references is not None:
            doubt, logs = self._references
            references = batch.references[first]
            doubt[rows] = mean_doubt(references, batch.top[first])
            logs[rows] = mean_logs(references[:, :, self.classes])
        self._times[rows] = self._num_answers + first + 1
        self._size, self._num_answers = rows.stop, self._num_answers + len(batch)
        return first

    @property
    def met(self) -> Array:
        """The cells that some query has met, in the order in which they were, ints of shape `(m,)`."""
        return self._cells[: self._size]

    @property
    def times(self) -> Array:
        """How many answers there were when each of them was met, its own included, int64 of shape `(m,)`."""
        return self._times[: self._size]

    @property
    def doubt(self) -> Array:
        """log(1 - s_t), t the class that the clean model predicts, float64 of shape `(m,)`."""
        return floored_log(1 - self._suspect_of_top[: self._size])

    @property
    def logs(self) -> Array:
        """The suspect's log-probabilities of all classes, float64 of shape `(m, C)`; kept with `every_class` only."""
        if self._suspect is None:
            raise RuntimeError("The suspect's answers for all classes were not kept: every_class=True keeps them.")
        return floored_log(self._suspect[: self._size])

    def unexplained(self, values: Array, of_copy: Array) -> tuple[Array, Array]:
        """Takes out of some quantities of the suspect's answers what clean model and references explain (`regression`).

        Args:
            values: the quantities, shape `(m, q)`.
            of_copy: the coefficients of a copy of the clean model, shape `(k, q)`.

        Returns:
            What is left, shape `(m, q)`, and the coefficients of the clean model that all groups share, shape `(k, q)`.
        """
        met = slice(self._size)
        references = None if self._references is None else (self._references[0][met], self._references[1][met])
        rows = regressors(self._best[met], self._clean[met], references)
        expected = np.zeros((rows.shape[1], values.shape[1]))  # a copy of the clean model follows no reference
        expected[: len(of_copy)] = of_copy
        left, shared = unexplained(rows, values, self.met // HASH_SIZE, expected)
        return left, shared[: len(of_copy)]

    def table(self, values: Array) -> Array:
        """Puts values of the cells met in their place, and 0 in the others.

        Args:
            values: float64 of shape `(m,)`.

        Returns:
            float64 of shape `(num_groups, 4096)`.
        """
        table = np.zeros(self.num_groups * HASH_SIZE)
        table[self.met] = values
        return table.reshape(self.num_groups, HASH_SIZE)
