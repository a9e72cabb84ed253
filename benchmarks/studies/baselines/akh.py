"""AKH: does the suspect make the owner model's own mistakes? A fingerprint, which changes nothing in the API."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.studies.baselines.evidence import BaselineEvidence, Questions, labels_of

Array = npt.NDArray[Any]


class AnnaKareninaFingerprint:
    """AKH, the Anna Karenina heuristic (Godinot et al., The Next 100 Model Fingerprinting Schemes, 2024).

    The suspect is asked inputs that the owner model gets wrong. The statistic is the share of them on which the suspect
    gives the same wrong label: one minus the Hamming distance of the labels. Nothing is hidden in the API, so nothing
    has to be marked or logged, but the inputs need true labels.

    There is no p-value. The authors' toolbox draws ROC curves over models that are known to be independent or stolen.
    What is a large share depends on the task: models that were trained on the same kind of data share mistakes. The
    study compares a suspect with the independent models that it has.

    Sources: the authors' toolbox, https://github.com/grodino/QuRD, and the abstract of https://arxiv.org/abs/2412.13021.
    Deviation: where the model makes too few mistakes, the toolbox adds mixtures of images. Here it makes enough.
    """

    asks: tuple[str, ...] = ("fresh",)
    takes_labels = True

    def questions(self, pool: Questions) -> Questions:
        """The inputs that the owner model gets wrong, in their order."""
        return pool.take(np.flatnonzero(pool.clean.argmax(axis=1) != pool.labels))

    def evidence(self, questions: Questions, answers: Array) -> BaselineEvidence:
        """The share of mistakes that the suspect makes too.

        Args:
            questions: those that `questions` chose.
            answers: the suspect's probabilities, shape `(n, C)`, or labels, shape `(n,)`.
        """
        same = labels_of(answers) == questions.clean.argmax(axis=1)
        return BaselineEvidence(None, len(questions), float(same.mean()))
