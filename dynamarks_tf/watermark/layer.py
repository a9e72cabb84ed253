"""DynaMarkLayer: the Keras layer that a trained classifier ends in when it is marked."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from dynamarks_tf.errors import ArgumentError, FormatError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook as codebooks
from dynamarks_tf.watermark import keyed_hash, lookups, perturbation
from dynamarks_tf.watermark.params import DEFAULT_BUDGET, DEFAULT_TIE_MARGIN, TABLE_CAP, MarkParams, check_num_classes

SCHEME = "dynamarks-4"
_BLANK_COUNT = -1

Tensor = Any


class _Mark(NamedTuple):
    """What is to be done to a batch: its outputs after the tie code, and the terms of the class code."""

    p: Tensor
    best: perturbation.BestTwo
    favoured: Tensor
    share: float | Tensor
    alpha: float | Tensor
    tie: perturbation.TieCode | None = None
    direction: Tensor | None = None
    is_single: bool = False  # each input raises one class


@keras.saving.register_keras_serializable(package="dynamarks_tf")
class DynaMarkLayer(keras.layers.Layer):
    """Marks the output of a classifier at inference; does nothing during training.

    For an input x with clean output p and best class t = argmax p, the layer releases

        p' = p + a (U - p),

    U uniform over the classes c != t that the key favours for t, and 0 <= a <= alpha as large as keeps t on top. The
    key chooses alpha for each input: 0 or `budget` (always `budget` if `amplitudes` is off). With up to 32 classes it
    also chooses a single one of the favoured classes for each input, and U is that one (all of them if `amplitudes` is
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
            never, and a thief who keeps labels only takes nothing marked with him.
        amplitudes: whether the key varies alpha, and the class that is raised, from input to input. Off, a thief who
            knows this scheme can subtract the mark, and one who keeps the best two classes can lose it.
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
        tie_margin: float = DEFAULT_TIE_MARGIN,
        amplitudes: bool = True,
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
                f"This model was marked by scheme {scheme!r}; this release knows {SCHEME!r}. Use the release that "
                "marked it, or mark the clean model again."
            )
        kwargs.pop("trainable", None)
        super().__init__(trainable=False, autocast=False, **kwargs)
        self.params = MarkParams(budget, table_rows, table_columns, tie_margin, amplitudes)
        self.budget = self.params.budget
        self.tie_margin = self.params.tie_margin
        self.amplitudes = self.params.amplitudes
        self.from_logits = bool(from_logits)
        self.table_rows = self.params.table_rows
        self.table_columns = self.params.table_columns
        self.key_id = key.key_id if key is not None else key_id
        self.scheme = scheme
        self.supports_masking = True
        self._key = key

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the tables: from the key if there is one, else blank, to be loaded."""
        self._num_classes = check_num_classes(input_shape[-1])
        self._look_ups = lookups.look_ups(self._num_classes, self.params)
        self._tables = {name: self._add_table(name, values) for name, values in self._values(self._num_classes).items()}
        self._key = None  # the tables are all that is needed from here on
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the released outputs: the inputs while training, the marked ones else."""
        released_dtype = keras.backend.standardize_dtype(inputs.dtype)
        dtype = perturbation.arithmetic_dtype(released_dtype)
        if training:
            return inputs
        values = ops.cast(inputs, dtype)
        mark = self._mark_logits if self.from_logits else self._mark_probabilities
        return ops.cast(mark(values, released_dtype), released_dtype)

    def _mark_probabilities(self, p: Tensor, released_dtype: str) -> Tensor:
        mark = self._decide(p, perturbation.best_two(p), released_dtype)
        p, favoured, alpha = mark.p, mark.favoured, mark.alpha
        kept = perturbation.ties_keep_a_lead(self.tie_margin, self.budget, released_dtype)
        if mark.is_single and kept:
            return perturbation.raise_class(p, perturbation.largest(p), favoured, alpha, released_dtype)
        return perturbation.class_code(p, mark.best, favoured, mark.share, alpha, released_dtype, is_lead_kept=kept)

    def _mark_logits(self, logits: Tensor, released_dtype: str) -> Tensor:
        relative = logits - perturbation.largest(logits)
        p = ops.softmax(relative, axis=-1)
        best = perturbation.best_two(p, relative)
        mark = self._decide(p, best, released_dtype)
        if mark.tie is not None:
            is_pair = ops.not_equal(mark.direction, 0.0)
            relative = perturbation.tie_code_logits(relative, mark.p, best, mark.tie, is_pair, mark.best.p_top)
        return perturbation.class_code_logits(
            relative, mark.p, mark.best, mark.favoured, mark.share, mark.alpha, released_dtype
        )

    def _decide(self, p: Tensor, best: perturbation.BestTwo, released_dtype: str) -> _Mark:
        """What the key says about each output: which class wins a tie, which classes are raised, and how much."""
        if not (self.amplitudes or self.tie_margin):
            favoured, share, is_any = self._favoured_beside(best.top, p.dtype)
            return _Mark(p, best, favoured, share, self.budget * is_any)
        group_of_class = self._tables.get("group_of_class")
        found = lookups.find_cells(best, self._digits(p), self._num_classes, group_of_class, self._look_ups)
        drawn = self._draw(found.places, p.dtype)
        tie, left, raised = None, self.budget, drawn.get("focus")
        if self.tie_margin:
            coins = found.order * drawn["tie"]
            tie = perturbation.tie_code(best, coins, self.tie_margin, self.budget, released_dtype)
            p, best = p + tie.shift * found.direction, perturbation.after_ties(best, tie)
            left = self.budget - tie.moved
            if raised is not None:
                raised = perturbation.choose(tie.second_wins, drawn["focus of second"], raised)
        alpha = left
        if self.amplitudes:
            alpha = perturbation.amplitude(drawn["amplitude"], left)
        if raised is not None:
            classes = np.arange(self._num_classes, dtype=keras.backend.standardize_dtype(p.dtype))
            favoured = ops.cast(ops.equal(raised, classes), p.dtype)
            return _Mark(p, best, favoured, 1.0, alpha, tie, found.direction, is_single=True)
        favoured, share, is_any = self._favoured_beside(best.top, p.dtype)
        return _Mark(p, best, favoured, share, alpha * is_any, tie, found.direction)

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
            "table_rows": self.table_rows,
            "table_columns": self.table_columns,
            "key_id": self.key_id,
            "scheme": self.scheme,
        }

    @property
    def is_blank(self) -> bool:
        """Whether the tables are still to be loaded, so that the layer marks nothing."""
        return not self.built or bool(np.any(self._held("favoured") == _BLANK_COUNT))

    @property
    def favours_nothing(self) -> bool:
        """Whether the key happens to favour no class at all, which it can only if there are few: nothing is marked."""
        return not np.any(self._held("favoured") > 0)

    def was_made_with(self, key: MarkKey) -> bool:
        """Whether the tables of this layer are those that `key` gives. The layer must be built."""
        expected = _tables_from(codebooks.expand(key, self._num_classes, self.params), self.params)
        return all(np.array_equal(self._held(name), table) for name, table in expected.items())

    def _held(self, name: str) -> np.ndarray:
        return np.asarray(ops.convert_to_numpy(self._tables[name]))

    def _values(self, num_classes: int) -> dict[str, np.ndarray]:
        if self._key is not None:
            return _tables_from(codebooks.expand(self._key, num_classes, self.params), self.params)
        shapes = _table_shapes(num_classes, self.params)
        blank: dict[str, np.ndarray] = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
        blank["favoured"] = np.full(num_classes, _BLANK_COUNT, np.int32)
        if "coins" in blank and self.params.is_focused(num_classes):
            itself = np.repeat(np.arange(num_classes, dtype=np.int8), keyed_hash.COLUMNS)
            blank["coins"][-len(itself) :] = itself
        return blank

    def _add_table(self, name: str, values: np.ndarray) -> Any:
        return self.add_weight(
            name=name,
            shape=values.shape,
            dtype=str(values.dtype),
            initializer=lambda shape, dtype: ops.convert_to_tensor(values, dtype=dtype),
            trainable=False,
            autocast=False,
        )

    def _favoured_beside(self, top: Tensor, dtype: str) -> tuple[Tensor, Tensor, Tensor]:
        """1 at the classes beside `top` that are to be raised, 0 elsewhere; the probability of one under U; and 1 if
        there is one, else 0."""
        tables = self._tables
        if "row_of_class" not in tables:
            favoured = ops.maximum(ops.cast(perturbation.look_up(tables["signs"], top), dtype), 0.0)  # diagonal is 0
        else:
            favoured = ops.maximum(ops.cast(self._rows_of(top), dtype), 0.0)
            favoured = favoured * perturbation.all_but(top, self._num_classes, dtype)
        counts = ops.cast(ops.expand_dims(perturbation.look_up(tables["favoured"], top), axis=-1), dtype)
        is_any = ops.minimum(ops.maximum(counts, 0.0), 1.0)
        return favoured, is_any / ops.maximum(counts, 1.0), is_any

    def _rows_of(self, top: Tensor) -> Tensor:
        """The signs of all classes in the row of `top`; of shape `(C,)` if all share it, else `(..., C)`."""
        tables = self._tables
        if tables["signs"].shape[0] == 1:
            signs = tables["signs"][0]
        else:
            signs = perturbation.look_up(tables["signs"], perturbation.look_up(tables["row_of_class"], top))
        return perturbation.look_up(signs, tables["column_of_class"], axis=-1) if "column_of_class" in tables else signs

    def _digits(self, p: Tensor) -> Tensor:
        """The digits of each input's hash; floats of shape `(..., 2)`."""
        hashed_classes = self._tables.get("hashed_classes")
        hashed = p if hashed_classes is None else perturbation.look_up(p, hashed_classes, axis=-1)
        offsets, multipliers = (ops.cast(self._tables[name], p.dtype) for name in ("offsets", "multipliers"))
        return keyed_hash.hash_digits(hashed, offsets, multipliers, ops)

    def _draw(self, places: Tensor, dtype: str) -> dict[str, Tensor]:
        """What the table of coins has for each input, by the names of the look-ups, shape `(..., 1)` each."""
        values = ops.cast(perturbation.look_up(self._tables["coins"], places), dtype)
        names = [each.name for each in self._look_ups]
        return dict(zip(names, ops.split(values, len(names), axis=-1), strict=True))


def _tables_from(codebook: codebooks.Codebook, params: MarkParams) -> dict[str, np.ndarray]:
    """The layer's weights: what inference needs of a codebook, laid out for speed."""
    bucketing = codebook.bucketing
    class_signs = codebook.class_signs.copy()
    shapes = _table_shapes(codebook.num_classes, params)
    if "row_of_class" not in shapes:
        np.fill_diagonal(class_signs, 0)
    tables: dict[str, Any] = {
        "signs": class_signs,
        "favoured": codebook.favoured_counts(),
        **{field.name: getattr(bucketing, field.name) for field in dataclasses.fields(bucketing)},
    }
    if "coins" in shapes:
        tables["coins"] = _coins(codebook, params)
    return {name: tables[name] for name in shapes}


def _coins(codebook: codebooks.Codebook, params: MarkParams) -> np.ndarray:
    """Coins of the amplitude code and the tie code, -1 or +1, and the classes to be raised, as `cells` has them."""
    tables = {"amplitude": codebook.amplitude_signs, "tie": codebook.tie_signs, "focus": codebook.focus}
    parts = []
    for name in lookups.rows_of_coins(codebook.num_classes, params):
        table = tables[name]
        assert table is not None
        parts.append((_or_itself(table) if name == "focus" else table).ravel())
    return np.concatenate(parts)


def _or_itself(focus: np.ndarray) -> np.ndarray:
    """The focus of each predicted class; the class itself, which nothing can raise, where it favours none (-1)."""
    return np.where(focus < 0, np.arange(len(focus))[:, None], focus).astype(np.int8)  # of at most 32 classes


def _table_shapes(num_classes: int, params: MarkParams) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and type of each table that a layer with these settings needs."""
    rows, columns = params.table_shape(num_classes)
    shapes: dict[str, tuple[tuple[int, ...], type]] = {"favoured": ((num_classes,), np.int32)}
    if not params.is_focused(num_classes):
        shapes["signs"] = ((rows, columns), np.int8)
    if (rows, columns) != (num_classes, num_classes):  # classes share rows or columns
        shapes["row_of_class"] = ((num_classes,), np.int32)
    if columns != num_classes:
        shapes["column_of_class"] = ((num_classes,), np.int32)
    if params.amplitudes or params.tie_margin:
        hashed = min(num_classes, keyed_hash.HASHED_CLASSES)
        shapes |= {"offsets": ((hashed,), np.float32), "multipliers": ((hashed, 2), np.float32)}
        if hashed < num_classes:
            shapes["hashed_classes"] = ((hashed,), np.int32)
        if num_classes > keyed_hash.num_class_groups(num_classes):
            shapes["group_of_class"] = ((num_classes,), np.int32)
        coin_rows = sum(lookups.rows_of_coins(num_classes, params).values())
        shapes["coins"] = ((coin_rows * keyed_hash.COLUMNS,), np.int8)
    return shapes
