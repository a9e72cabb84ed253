"""The owner's side of a test: the clean model, its settings, and what they let be tested."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import files
from dynamarks_tf.errors import ArgumentError, ModelError
from dynamarks_tf.keys.commitment import Statement
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.watermark import marking
from dynamarks_tf.watermark.params import MarkParams, check_num_classes
from dynamarks_tf.watermark.probabilities import probability_problem, softmax

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Owner:
    """The clean owner model, and how it was marked.

    Attributes:
        model: the clean model.
        params: settings of the mark.
        from_logits: whether the model answers logits.
        num_classes: number of classes C.
        file_sha256: digest of the file that the model was loaded from; `None` if it was given in memory.
        commitment: of the key that it was resolved with.
    """

    model: keras.Model
    params: MarkParams
    from_logits: bool
    num_classes: int
    file_sha256: str | None
    commitment: str

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of one input, without the batch axis."""
        return tuple(self.model.inputs[0].shape[1:])

    @property
    def takes_text(self) -> bool:
        """Whether its inputs are text or bytes."""
        return str(self.model.inputs[0].dtype) == "string"

    def answers(self, batch: Array) -> Array:
        """The clean model's probabilities for a batch, float32 or float64 of shape `(n, ..., C)`.

        Raises:
            ModelError: its outputs are no probability vectors.
        """
        outputs = KerasSuspect(self.model).predict(batch)
        if outputs.dtype not in (np.float32, np.float64):
            outputs = outputs.astype(np.float32)
        probabilities = softmax(outputs) if self.from_logits else outputs
        if problem := probability_problem(probabilities):
            hint = "" if self.from_logits else " If they are logits, say from_logits=True."
            raise ModelError(
                f"The outputs of the owner model {self.model.name!r} are no probability vectors: {problem}.{hint}"
            )
        return probabilities


def resolve_owner(
    owner: Any, key: MarkKey, *, from_logits: bool | None = None, statement: Statement | None = None
) -> Owner:
    """Loads the owner's model, takes the mark off, and checks that model, key and statement belong together.

    Args:
        owner: the owner's Keras model, clean or marked, or the path of its file; or what an earlier call returned.
        key: the owner's key.
        from_logits: whether a clean model answers logits; a marked one tells itself.
        statement: the published commitment, if there is one.

    Raises:
        ArgumentError: `owner` or `key` is of another kind.
        CommitmentError: the statement is about another key or another file.
        ModelError: the model cannot be used, or was marked with another key.
    """
    if not isinstance(key, MarkKey):
        raise ArgumentError(f"`key` must be a MarkKey; load one by MarkKey.load(path). Received: {type(key).__name__}")
    is_path = isinstance(owner, (str, os.PathLike))
    file_sha256 = files.file_sha256(owner) if is_path and os.path.isfile(owner) else None
    if statement is not None:
        statement.check_opened_by(key)
        statement.check_model(owner.file_sha256 if isinstance(owner, Owner) else file_sha256)
    if isinstance(owner, Owner):
        if owner.commitment != key.commitment:
            raise ModelError("The owner was resolved with another key than the one given. Use the same key.")
        return owner
    model = marking.load_model(owner) if is_path else owner
    _check_usable(model)
    layer = marking.find_mark(model)
    if layer is None:
        clean, params, from_logits = model, MarkParams(), bool(from_logits)
    else:
        _check_marked_with(key, layer, model.name)
        clean, params, from_logits = marking.stripped(model), layer.params, layer.from_logits
    return Owner(clean, params, from_logits, check_num_classes(clean.outputs[0].shape[-1]), file_sha256, key.commitment)


def _check_usable(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise ArgumentError(
            "`owner` must be the owner's Keras model or the path of its .keras file; its clean answers are needed. "
            f"Received: {type(model).__name__}"
        )
    if len(getattr(model, "outputs", None) or ()) != 1 or len(model.inputs) != 1 or len(model.outputs[0].shape) < 2:
        raise ModelError(
            f"The owner model {model.name!r} must have a graph with one input and one output of shape (batch, classes) "
            "or (batch, ..., classes)."
        )


def _check_marked_with(key: MarkKey, layer: Any, name: str) -> None:
    if layer.is_blank:
        raise ModelError(
            f"The owner model {name!r} has a DynaMarkLayer with blank tables: it was rebuilt from its configuration "
            "and its weights were not loaded. Load the whole .keras file, or the weights."
        )
    if not layer.was_made_with(key):
        raise ModelError(
            f"The owner model {name!r} was marked with another key (key id {layer.key_id}) than the one given (key id "
            f"{key.key_id}, owner {key.owner!r}). Use the key that the served model was marked with."
        )
