"""What the mark costs, measured on validation data: on demand, and after every epoch of training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.watermark import metrics
from dynamarks_tf.watermark.marking import find_mark, stripped
from dynamarks_tf.watermark.metrics import MarkCost
from dynamarks_tf.watermark.probabilities import softmax

_FORMS = "a pair (x, y) of arrays, or batches of such pairs, as a tf.data.Dataset gives them"


def measure_cost(marked: keras.Model, validation_data: Any, *, batch_size: int = 256) -> MarkCost:
    """Measures what marking costs the users of a classifier.

    Args:
        marked: a model that ends in a `DynaMarkLayer`.
        validation_data: inputs and true labels, as `fit` takes them: a pair `(x, y)` of arrays, or an iterable of
            batches of such pairs. Labels are class indices of shape `(n,)` or `(n, 1)`, or one-hot of shape `(n, C)`.
        batch_size: how many inputs are computed at once; arrays only.

    Returns:
        Accuracy of the clean and of the marked model, total variation between their answers, and how often both give
        the same top-1 answer.

    Raises:
        ModelError: the model does not end in a `DynaMarkLayer`.
        ArgumentError: there is no input, or the data has another form.

    Example:

    >>> dm.measure_cost(marked, (x_test, y_test)).max_total_variation  # at most the budget
    0.05
    """
    return _measure(_clean_and_marked(marked), validation_data, batch_size)


class MarkReport(keras.callbacks.Callback):
    """Shows clean and marked accuracy and their total variation after each epoch of training a marked model.

    Adds `val_clean_accuracy`, `val_marked_accuracy` and `val_total_variation` (the mean) to the logs, so that the
    progress bar, the history and the callbacks that come later have them.

    Args:
        validation_data: as `measure_cost` takes it; usually that of `fit`.
        batch_size: how many inputs are computed at once; arrays only.

    Attributes:
        cost: the `MarkCost` of the last epoch; `None` before.

    Raises:
        ModelError: in `fit`, if the model does not end in a `DynaMarkLayer`.

    Example:

    >>> history = marked.fit(x, y, validation_data=held_out, callbacks=[dm.MarkReport(held_out)])
    >>> history.history["val_marked_accuracy"]
    [0.886]
    """

    def __init__(self, validation_data: Any, *, batch_size: int = 256) -> None:
        super().__init__()
        self.validation_data = validation_data
        self.batch_size = batch_size
        self.cost: MarkCost | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuses a model without a mark before anything is trained."""
        self._clean_and_marked = _clean_and_marked(self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures, and adds to the logs."""
        self.cost = _measure(self._clean_and_marked, self.validation_data, self.batch_size)
        if logs is not None:
            logs["val_clean_accuracy"] = self.cost.clean_accuracy
            logs["val_marked_accuracy"] = self.cost.marked_accuracy
            logs["val_total_variation"] = self.cost.mean_total_variation


def _clean_and_marked(marked: keras.Model) -> keras.Model:
    """A model with both answers, which shares the layers of `marked`."""
    clean = stripped(marked)
    return keras.Model(clean.inputs, [clean.outputs[0], marked.layers[-1](clean.outputs[0])])


def _measure(both: keras.Model, validation_data: Any, batch_size: int) -> MarkCost:
    layer = find_mark(both)
    assert layer is not None
    found = []
    for x, y in _batches(validation_data, batch_size):
        clean, marked = (np.asarray(answers) for answers in both.predict_on_batch(x))
        if layer.from_logits:
            clean, marked = softmax(clean), softmax(marked)
        labels = _class_indices(y, clean.shape)
        clean, marked = (answers.reshape(-1, answers.shape[-1]) for answers in (clean, marked))
        found.append((len(clean), metrics.mark_cost(clean, marked, labels)))
    if not found:
        raise ArgumentError(f"`validation_data` holds no inputs. Give {_FORMS}.")
    return metrics.pooled_cost(found)


def _batches(data: Any, batch_size: int) -> Iterator[tuple[Any, Any]]:
    if isinstance(data, (tuple, list)) and len(data) >= 2 and all(hasattr(part, "shape") for part in data[:2]):
        x, y = data[:2]
        for start in range(0, len(x), batch_size):
            yield x[start : start + batch_size], y[start : start + batch_size]
    elif isinstance(data, Iterable):
        for batch in data:
            if not isinstance(batch, (tuple, list)) or len(batch) < 2:
                raise ArgumentError(f"`validation_data` must be {_FORMS}. Received: batches of {type(batch).__name__}")
            yield batch[0], batch[1]
    else:
        raise ArgumentError(f"`validation_data` must be {_FORMS}. Received: a {type(data).__name__}")


def _class_indices(labels: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The class of each answer; `shape` is that of the answers, one-hot labels have the same."""
    array: np.ndarray = np.asarray(labels)
    if array.shape == shape:
        array = array.argmax(axis=-1)
    if array.size != math.prod(shape[:-1]):
        raise ArgumentError(
            f"Labels have shape {np.shape(labels)}; the answers have shape {shape}: expected labels of shape "
            f"{shape[:-1]}, or one-hot labels of the shape of the answers."
        )
    return array.reshape(-1)
