"""The owner's side of a test: the clean model, its settings, and what they let be tested."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable
from typing import Any

import keras
import numpy.typing as npt

from dynamarks_tf._support import files
from dynamarks_tf.errors import ArgumentError, ModelError
from dynamarks_tf.keys.commitment import Statement
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.verification.clean_answers import clean_answers
from dynamarks_tf.watermark import marking
from dynamarks_tf.watermark.codebook import Codebook, expand
from dynamarks_tf.watermark.model_digest import code_outside, model_sha256
from dynamarks_tf.watermark.outputs import OutputKind, check_output_kind, find_output_kind
from dynamarks_tf.watermark.params import MarkParams, answer_shape

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Owner:
    """The clean owner model, and how it was marked.

    Attributes:
        model: the clean model.
        params: settings of the mark.
        activation: what turns the model's logits into probabilities, `"softmax"` or `"sigmoid"`.
        from_logits: whether the model answers logits.
        num_classes: number of classes C; 2 for sigmoids.
        num_labels: number of labels L, each with an answer of its own; 1 for a softmax.
        model_sha256: digest of the clean model.
        bound: whether the tables are those of the key bound to the clean model.
        marked: whether the model was given with its mark, which told the settings.
        code_outside: names of classes and functions that the model uses and whose code no file holds.
        file_sha256: digest of the file that the model was loaded from; `None` if it was given in memory.
        commitment: of the key that it was resolved with.
    """

    model: keras.Model
    params: MarkParams
    activation: str
    from_logits: bool
    num_classes: int
    num_labels: int
    model_sha256: str
    bound: bool
    marked: bool
    code_outside: tuple[str, ...]
    file_sha256: str | None
    commitment: str

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of one input, without the batch axis."""
        return tuple(self.model.inputs[0].shape[1:])

    @property
    def num_values(self) -> int:
        """How many numbers it answers to one input; axes whose size is not known count as 2,048."""
        return math.prod(size or 2048 for size in self.model.outputs[0].shape[1:])

    def codebook(self, key: MarkKey) -> Codebook:
        """The codebook that the model was marked with."""
        bound = key.bind(self.model_sha256) if self.bound else key
        return expand(bound, self.num_classes, self.params, self.num_labels)

    @property
    def takes_text(self) -> bool:
        """Whether its inputs are text or bytes."""
        return str(self.model.inputs[0].dtype) == "string"

    def answers(self, batch: Array) -> Array:
        """The clean model's probabilities for a batch, float32 or float64 of shape `(n, ..., C)`.

        Sigmoids of L labels give `(n, ..., L, 2)`, or `(n, ..., 2)` if there is one.

        Raises:
            ModelError: its outputs are no probability vectors.
        """
        return clean_answers(self.model, batch, self.activation, from_logits=self.from_logits)


def resolve_owner(
    owner: Any,
    key: MarkKey,
    *,
    from_logits: bool | None = None,
    statement: Statement | None = None,
    allow_code: bool = False,
    client_keys: Iterable[MarkKey] = (),
) -> Owner:
    """Loads the owner's model, takes the mark off, and checks that model, key and statement belong together.

    Args:
        owner: the owner's Keras model, clean or marked, or the path of its file; or what an earlier call returned.
        key: the owner's key.
        from_logits: whether a clean model answers logits, where its loss, its last layer and its answers do not tell. A
            marked one tells itself.
        statement: the published commitment, if there is one.
        allow_code: whether to run code inside the owner's file, such as that of `Lambda` layers.
        client_keys: keys of clients, any of which may have marked the model instead.

    Raises:
        ArgumentError: `owner` or `key` is of another kind.
        CommitmentError: the statement is about another key or another file.
        ModelError: the model cannot be used, was marked with another key, or its outputs are not what its mark says.
    """
    if not isinstance(key, MarkKey):
        raise ArgumentError(f"`key` must be a MarkKey; load one by MarkKey.load(path). Received: {type(key).__name__}")
    of_commitment = {each.commitment: each for each in (*client_keys, key)}
    is_path = isinstance(owner, (str, os.PathLike))
    file_sha256 = files.file_sha256(owner) if is_path and os.path.isfile(owner) else None
    if statement is not None:
        statement.check_opened_by(key)
        statement.check_model(owner.file_sha256 if isinstance(owner, Owner) else file_sha256)
    if isinstance(owner, Owner):
        if owner.commitment not in of_commitment:
            raise ModelError("The owner was resolved with another key than the one given. Use the same key.")
        return owner
    model = marking.load_model(owner, allow_code=allow_code) if is_path else owner
    if isinstance(model, keras.Model) and len(getattr(model, "outputs", None) or ()) > 1 and marking.find_mark(model):
        model = keras.Model(model.input, model.outputs[marking.marked_output(model)], name=model.name)
    _check_usable(model)
    layer = marking.find_mark(model)
    if layer is None:
        clean, params, bound = model, MarkParams(), True
        kind = find_output_kind(model, from_logits=from_logits)
    else:
        with_this = next((each for each in of_commitment.values() if each.key_id == layer.key_id), key)
        _check_marked_with(with_this, layer, model.name)
        clean, params, bound = marking.stripped(model), layer.params, layer.model_sha256 is not None
        kind = OutputKind(layer.activation, layer.from_logits)
        check_output_kind(clean, kind)
    digest = model_sha256(clean)
    if layer is not None and bound and digest != layer.model_sha256:
        raise ModelError(
            f"The owner model {model.name!r} is no longer the one that its key is bound to: it was trained further, or "
            "rebuilt, after it was marked. Test with the file of the marked model that was served. To serve the new "
            "weights, mark them anew: dm.mark(dm.strip(model), key)."
        )
    num_classes, num_labels = answer_shape(clean.outputs[0].shape[-1], kind.activation)
    return Owner(
        model=clean,
        params=params,
        activation=kind.activation,
        from_logits=kind.from_logits,
        num_classes=num_classes,
        num_labels=num_labels,
        model_sha256=digest,
        bound=bound,
        marked=layer is not None,
        code_outside=code_outside(clean),
        file_sha256=file_sha256,
        commitment=key.commitment,
    )


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
