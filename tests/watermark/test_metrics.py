"""Accuracy, fidelity and total variation on hand-computed values."""

import numpy as np
import pytest

from dynamarks_tf.watermark import metrics

CLEAN = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.5, 0.4, 0.1]])
MARKED = np.array([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.1, 0.4], [0.5, 0.4, 0.1]])
LABELS = np.array([0, 1, 2, 1])


def test_mark_cost():
    cost = metrics.mark_cost(CLEAN, MARKED, LABELS)
    assert cost.to_dict() == pytest.approx(
        {
            "clean_accuracy": 0.75,
            "marked_accuracy": 0.5,
            "mean_total_variation": (0.1 + 0.2) / 4,
            "max_total_variation": 0.2,
            "top1_agreement": 0.75,
        }
    )


def test_total_variation_of_half_precision_is_exact():
    p = np.array([[1, 0], [0.5, 0.5]], np.float16)
    np.testing.assert_array_equal(metrics.total_variation(p, p[::-1]), [0.5, 0.5])
