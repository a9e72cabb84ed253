"""DynaMarkLayer: the Keras layer that a trained classifier ends in when it is marked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from dynamarks_tf import codebook as codebooks
from dynamarks_tf import perturbation
from dynamarks_tf.errors import ArgumentError, FormatError
from dynamarks_tf.key import MarkKey
from dynamarks_tf.params import DEFAULT_BUDGET, TABLE_CAP, MarkParams, check_num_classes

SCHEME = "dynamarks-1"
_BLANK_SHARE = -1.0

Tensor = Any
Function = Callable[..., Tensor]

_ON_PROBABILITIES: tuple[Function, Function] = (perturbation.predicted_class, perturbation.class_code)
_ON_LOGITS: tuple[Function, Function] = (perturbation.predicted_class_of_logits, perturbation.class_code_logits)


@keras.saving.register_keras_serializable(package="dynamarks_tf")
class DynaMarkLayer(keras.layers.Layer):
    """Marks the output of a classifier at inference; does nothing during training.

    For an input x with clean output p and best class t = argmax p, the layer releases

        p' = p + a (U - p),

    U uniform over the classes c != t that the key favours for t, and 0 <= a <= `budget` as large as keeps t on top.

    Guaranteed for every input, by construction:
    - p' >= 0 and sum p' = 1 if p is a probability vector, to float precision;
    - the total variation between p and p' is at most `budget`;
    - argmax p' = argmax p: accuracy and every top-1 answer are unchanged;
    - `training=True` returns the input itself: training a marked model is training the clean one;
    - the same input gives the same output; there is no randomness and no state;
    - a row with a NaN or an infinity gives a row of NaN and leaves the other rows alone (a logit of -inf is a
      probability of 0, and allowed).

    The sign tables are non-trainable weights, expanded from the key when the layer is built. `get_config` holds no
    secret, so a model rebuilt from its configuration alone (`clone_model`, `model_from_json`) has blank tables and
    returns its inputs unchanged until its weights are loaded or set; `is_blank` tells.

    Args:
        key: the owner's `MarkKey`. `None` only when the weights will be loaded, as Keras does for saved models.
        budget: largest total variation between clean and released output, in (0, 0.5].
        from_logits: whether inputs are logits. Outputs are logits then as well, shifted so that the best class is at
            0; their softmax is p'.
        table_rows: largest number of rows of the sign table; beyond it, classes share rows by a keyed hash.
        table_columns: the same for columns.
        key_id: short public name of the key, shown by `dynamarks inspect`. Taken from `key`.
        scheme: name of the scheme, so that a file from a later release is refused clearly.
        **kwargs: `name` and `dtype` of the Keras layer. Inputs are never cast down: the mark is computed in float32
            (float64 for float64 inputs) and returned in the type of the input, under any dtype policy.

    Call arguments:
        inputs: probabilities (or logits), shape `(..., C)`, float16, bfloat16, float32 or float64.
        training: whether the model is being trained; the inputs are returned as they are then.

    Input shape:
        `(..., C)` with any leading axes and C >= 2 known.

    Output shape:
        The same.

    Raises:
        ArgumentError: `budget` or a table size is out of range, or C is unknown or below 2.
        FormatError: the configuration was written by a later release.

    Example:

    >>> outputs = dm.DynaMarkLayer(key, budget=0.05)(model.output)
    >>> marked = keras.Model(model.inputs, outputs)

    Reference:
        The idea: DynaMarks, https://arxiv.org/abs/2207.13321. The formulas: docs/scheme.md.
    """

    def __init__(
        self,
        key: MarkKey | None = None,
        budget: float = DEFAULT_BUDGET,
        from_logits: bool = False,
        *,
        table_rows: int = TABLE_CAP,
        table_columns: int = TABLE_CAP,
        key_id: str | None = None,
        scheme: str = SCHEME,
        **kwargs: Any,
    ) -> None:
        if key is not None and not isinstance(key, MarkKey):
            raise ArgumentError(
                f"`key` must be a dynamarks_tf.MarkKey; get one by MarkKey.generate(owner=...) or MarkKey.load(path). "
                f"Received: a {type(key).__name__}"
            )
        if scheme != SCHEME:
            raise FormatError(
                f"This model was marked by scheme {scheme!r}; this release knows {SCHEME!r}. Install a newer "
                "dynamarks_tf."
            )
        kwargs.pop("trainable", None)
        super().__init__(trainable=False, autocast=False, **kwargs)
        self.params = MarkParams(budget, table_rows, table_columns)
        self.budget = self.params.budget
        self.from_logits = bool(from_logits)
        self.table_rows = self.params.table_rows
        self.table_columns = self.params.table_columns
        self.key_id = key.key_id if key is not None else key_id
        self.scheme = scheme
        self.supports_masking = True
        self._key = key

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the tables: from the key if there is one, else blank, to be loaded."""
        num_classes = check_num_classes(input_shape[-1])
        tables = self._tables(num_classes)
        self._signs = self._add_table("signs", tables["signs"])
        self._share = self._add_table("share", tables["share"])
        self._is_hashed = "row_of_class" in tables
        if self._is_hashed:
            self._row_of_class = self._add_table("row_of_class", tables["row_of_class"])
            self._column_of_class = self._add_table("column_of_class", tables["column_of_class"])
        self._key = None  # the tables are all that is needed from here on
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the released outputs: the inputs while training, the marked ones else."""
        released_dtype = keras.backend.standardize_dtype(inputs.dtype)
        dtype = perturbation.arithmetic_dtype(released_dtype)
        if training:
            return inputs
        values = ops.cast(inputs, dtype)
        find_top, code = _ON_LOGITS if self.from_logits else _ON_PROBABILITIES
        top = find_top(values)
        signs = self._signs_of_rows(top, dtype)
        share = ops.cast(ops.expand_dims(ops.take(self._share, top, axis=0), axis=-1), dtype)
        released = code(values, signs, share, self.budget, released_dtype)
        return ops.cast(released, released_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input shape."""
        return input_shape

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> keras.KerasTensor:
        """Shape and type of the inputs, whatever the dtype policy."""
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def __reduce__(self) -> Any:
        """Refuses to be pickled while it still holds the key: the copy would silently mark nothing."""
        if self._key is not None:
            raise TypeError(
                "A DynaMarkLayer is pickled only once it is built, because its key is never written. Append it to a "
                "model first, or build it: layer.build((None, num_classes))"
            )
        return super().__reduce__()

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments without the key; safe to publish."""
        config = super().get_config()
        config.pop("trainable", None)
        return {
            **config,
            "budget": self.budget,
            "from_logits": self.from_logits,
            "table_rows": self.table_rows,
            "table_columns": self.table_columns,
            "key_id": self.key_id,
            "scheme": self.scheme,
        }

    @property
    def is_blank(self) -> bool:
        """Whether the tables are still to be loaded, so that the layer marks nothing."""
        return not self.built or bool(np.any(ops.convert_to_numpy(self._share) == _BLANK_SHARE))

    @property
    def favours_nothing(self) -> bool:
        """Whether the key happens to favour no class at all, which it can only if there are few: nothing is marked."""
        return not np.any(ops.convert_to_numpy(self._share) > 0)

    def was_made_with(self, key: MarkKey) -> bool:
        """Whether the tables of this layer are those that `key` gives. The layer must be built."""
        # Expanding needs the number of classes, which the layer's weights know.
        tables = _tables_from(codebooks.expand(key, int(self._share.shape[0]), self.params))
        held = {weight.name: ops.convert_to_numpy(weight) for weight in self.weights}
        return all(np.array_equal(held[name], table) for name, table in tables.items())

    def _tables(self, num_classes: int) -> dict[str, np.ndarray]:
        if self._key is not None:
            return _tables_from(codebooks.expand(self._key, num_classes, self.params))
        rows, columns = self.params.table_shape(num_classes)
        tables: dict[str, np.ndarray] = {
            "signs": np.zeros((rows, columns), np.int8),
            "share": np.full(num_classes, _BLANK_SHARE, np.float32),
        }
        maps = {name: np.zeros(num_classes, np.int32) for name in ("row_of_class", "column_of_class")}
        return tables if _fits(num_classes, (rows, columns)) else {**tables, **maps}

    def _add_table(self, name: str, values: np.ndarray) -> Any:
        return self.add_weight(
            name=name,
            shape=values.shape,
            dtype=str(values.dtype),
            initializer=lambda shape, dtype: ops.convert_to_tensor(values, dtype=dtype),
            trainable=False,
            autocast=False,
        )

    def _signs_of_rows(self, top: Tensor, dtype: str) -> Tensor:
        """The signs of all classes beside `top`: +1 favoured, -1 not, 0 for the top class; shape `(..., C)`."""
        if not self._is_hashed:
            return ops.cast(ops.take(self._signs, top, axis=0), dtype)  # its diagonal is 0
        rows = ops.take(self._signs, ops.take(self._row_of_class, top, axis=0), axis=0)
        signs = ops.cast(ops.take(rows, self._column_of_class, axis=-1), dtype)
        classes = ops.arange(self._column_of_class.shape[0], dtype="int32")
        others = ops.not_equal(ops.expand_dims(ops.cast(top, "int32"), axis=-1), classes)
        return signs * ops.cast(others, dtype)


def _tables_from(codebook: codebooks.Codebook) -> dict[str, np.ndarray]:
    """The layer's weights: what inference needs of a codebook, laid out for speed."""
    counts = codebook.favoured_counts()
    share = np.where(counts > 0, 1.0 / np.maximum(counts, 1), 0.0).astype(np.float32)
    tables: dict[str, np.ndarray] = {"signs": codebook.class_signs.copy(), "share": share}
    if _fits(codebook.num_classes, codebook.class_signs.shape):
        np.fill_diagonal(tables["signs"], 0)
        return tables
    return {**tables, "row_of_class": codebook.row_of_class, "column_of_class": codebook.column_of_class}


def _fits(num_classes: int, shape: tuple[int, ...]) -> bool:
    """Whether every class has a row and a column of its own."""
    return shape == (num_classes, num_classes)
