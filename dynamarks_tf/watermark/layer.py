"""DynaMarkLayer: the Keras layer that a trained classifier ends in when it is marked."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from dynamarks_tf.errors import ArgumentError, FormatError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook, lookups, perturbation
from dynamarks_tf.watermark.keyed_hash import TWO_CLASSES
from dynamarks_tf.watermark.params import (
    ACTIVATIONS,
    DEFAULT_BUDGET,
    DEFAULT_TIE_MARGIN,
    TABLE_CAP,
    Activation,
    MarkParams,
    answer_shape,
)

SCHEME = "dynamarks-5"


Tensor = Any


@keras.saving.register_keras_serializable(package="dynamarks_tf")
class DynaMarkLayer(keras.layers.Layer):
    """Marks the output of a classifier at inference; does nothing during training.

    For an input x with clean output p and best class t = argmax p, the layer releases

        p' = p + a (U - p),

    U uniform over the classes c != t that the key favors for t, and 0 <= a <= max_shift as large as keeps t on top.
    The key chooses max_shift for each input: 0 or `budget` (always `budget` if `amplitudes` is off). With up to 32
    classes it also chooses a target class for each input, and U is that one (all favored classes if `amplitudes` is
    off). With `tie_margin` above 0, the key chooses the winner where the two best classes are nearly equal, before the
    rest.

    Guaranteed for every input, by construction:
    - p' >= 0 and sum p' = 1 if p is a probability vector, to float precision;
    - the total variation between p and p' is at most `budget`;
    - if `tie_margin` is 0, argmax p' = argmax p: accuracy and every top-1 answer are unchanged;
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
        tie_margin: largest |log(p_a / p_b)| of the two best classes at which the key chooses the winner, in [0, 2]. 0:
            never, and an attacker who keeps labels only receives no marked output.
        amplitudes: whether the key varies max_shift, and the target class, from input to input. Off, an attacker who
            knows this scheme can subtract the mark, and one who keeps the best two classes can lose it.
        from_logits: whether inputs are logits. Outputs are logits then as well, shifted so that the best class is at
            0; their softmax is p'.
        table_rows: largest number of rows of the sign table; beyond it, classes share rows by a keyed hash. `None`: a
            row for each of up to 32 classes, and a single row for more.
        table_columns: the same for columns; at most 1,024 unless changed.
        activation: what turns logits into probabilities: `"softmax"` over the C classes, or `"sigmoid"` for each of L
            labels on its own. A score s is then the two-class answer (1 - s, s): the guarantees hold for each label,
            with the budget to itself, and the key chooses sides only where s is nearly 0.5.
        model_sha256: public digest of the clean model that the key is bound to; `mark` gives it. `None`: unbound, and
            `verify` says so.
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
        tie_margin: float = DEFAULT_TIE_MARGIN,
        amplitudes: bool = True,
        table_rows: int | None = None,
        table_columns: int = TABLE_CAP,
        activation: Activation = "softmax",
        model_sha256: str | None = None,
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
                f"This model was marked by scheme {scheme!r}; this release knows {SCHEME!r}. Use the release that "
                "marked it, or mark the clean model again."
            )
        if activation not in ACTIVATIONS:
            raise ArgumentError(f"`activation` must be one of {', '.join(ACTIVATIONS)}. Received: {activation!r}")
        kwargs.pop("trainable", None)
        super().__init__(trainable=False, autocast=False, **kwargs)
        self.params = MarkParams(budget, table_rows, table_columns, tie_margin, amplitudes)
        self.budget = self.params.budget
        self.tie_margin = self.params.tie_margin
        self.amplitudes = self.params.amplitudes
        self.from_logits = bool(from_logits)
        self.activation: Activation = activation
        self.model_sha256 = model_sha256
        self.table_rows = self.params.table_rows
        self.table_columns = self.params.table_columns
        self.key_id = key.key_id if key is not None else key_id
        self.scheme = scheme
        self.supports_masking = True
        self._key = key

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the tables: from the key if there is one, else blank, to be loaded."""
        self._num_classes, self._num_labels = answer_shape(input_shape[-1], self.activation)
        if self._num_classes == TWO_CLASSES and not (self.amplitudes or self.tie_margin):
            raise ArgumentError(
                "Two classes without amplitudes and without ties leave nothing to mark. Leave amplitudes at True, or "
                "give a tie_margin above 0."
            )
        values = (
            lookups.blank_tables(self._num_classes, self.params, self._num_labels)
            if self._key is None
            else self._tables_of(self._key)
        )
        self._tables = {name: self._add_table(name, table) for name, table in values.items()}
        self._key = None  # the tables are all that is needed from here on
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the released outputs: the inputs while training, the marked ones otherwise."""
        perturbation.arithmetic_dtype(keras.backend.standardize_dtype(inputs.dtype))  # refuses other types
        if training:
            return inputs
        if self.activation == "sigmoid":
            return perturbation.mark_scores(inputs, self._tables, self.params, from_logits=self.from_logits)
        mark = perturbation.mark_logits if self.from_logits else perturbation.mark_probabilities
        return mark(inputs, self._tables, self.params)

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
            "tie_margin": self.tie_margin,
            "amplitudes": self.amplitudes,
            "from_logits": self.from_logits,
            "activation": self.activation,
            "model_sha256": self.model_sha256,
            "table_rows": self.table_rows,
            "table_columns": self.table_columns,
            "key_id": self.key_id,
            "scheme": self.scheme,
        }

    @property
    def is_blank(self) -> bool:
        """Whether the tables are still to be loaded, so that the layer marks nothing."""
        return not self.built or lookups.are_blank(self._held())

    @property
    def favors_nothing(self) -> bool:
        """Whether the key happens to favor no class at all, which it can only if there are few: nothing is marked."""
        return not np.any(self._held()["favored_counts"] > 0)

    def was_made_with(self, key: MarkKey) -> bool:
        """Whether the tables of this layer are those that `key` gives. The layer must be built."""
        expected, held = self._tables_of(key), self._held()
        return all(np.array_equal(held[name], table) for name, table in expected.items())

    def _tables_of(self, key: MarkKey) -> dict[str, np.ndarray]:
        bound = key if self.model_sha256 is None else key.bind(self.model_sha256)
        book = codebook.expand(bound, self._num_classes, self.params, self._num_labels)
        return lookups.tables_from(book, self.params)

    def _held(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(ops.convert_to_numpy(table)) for name, table in self._tables.items()}

    def _add_table(self, name: str, values: np.ndarray) -> Any:
        return self.add_weight(
            name=name,
            shape=values.shape,
            dtype=str(values.dtype),
            initializer=lambda shape, dtype: ops.convert_to_tensor(values, dtype=dtype),
            trainable=False,
            autocast=False,
        )
