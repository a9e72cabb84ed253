"""Reference models: models of the owner that were never marked, whose answers are used beside the clean model's."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import ArgumentError, ModelError, SuspectError
from dynamarks_tf.evidence.reference_answers import MOST_REFERENCES
from dynamarks_tf.suspects.admission.keras_file import check_keras_file
from dynamarks_tf.suspects.admission.refusals import RefusedError
from dynamarks_tf.verification.clean_answers import clean_answers
from dynamarks_tf.verification.owner import Owner
from dynamarks_tf.watermark import marking
from dynamarks_tf.watermark.model_digest import code_outside, model_sha256
from dynamarks_tf.watermark.outputs import OutputKind, find_output_kind
from dynamarks_tf.watermark.params import answer_shape

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """The reference models of a test, in their order; none by default.

    Attributes:
        models: the models, and what their outputs are.
        sha256: digest of each.
        code_outside: names of classes and functions that they use and whose code no file holds, sorted.
    """

    models: tuple[tuple[keras.Model, OutputKind], ...] = ()
    sha256: tuple[str, ...] = ()
    code_outside: tuple[str, ...] = ()

    def answers(self, batch: Array) -> Array | None:
        """Their probabilities for a batch, shape `(n, ..., R, C)`; `None` if there are none.

        Raises:
            ModelError: the outputs of one are no probability vectors.
        """
        found = [
            clean_answers(model, batch, kind.activation, from_logits=kind.from_logits, role="reference")
            for model, kind in self.models
        ]
        return np.stack(found, axis=-2) if found else None


def resolve_references(given: Any, owner: Owner, *, allow_code: bool = False) -> References:
    """Loads reference models and checks that they can stand beside the owner model.

    Args:
        given: Keras models or paths of their files; one alone counts as a list of one.
        owner: the owner's side.
        allow_code: whether to run code inside the files, such as that of `Lambda` layers.

    Raises:
        ArgumentError: it is no list of at most 8 models.
        ModelError: one cannot be loaded, was marked, is given twice or is the owner model, or takes other inputs or
            gives other answers than the owner model.
    """
    single = isinstance(given, (str, os.PathLike, keras.Model))
    listed = [given] if single else [*given] if isinstance(given, Iterable) else None
    if listed is None or not all(isinstance(one, (str, os.PathLike, keras.Model)) for one in listed):
        kinds = type(given).__name__ if listed is None else ", ".join(sorted({type(one).__name__ for one in listed}))
        raise ArgumentError(f"`reference` must be a list of Keras models or paths of their files. Received: {kinds}")
    if len(listed) > MOST_REFERENCES:
        raise ArgumentError(
            f"`reference` takes at most {MOST_REFERENCES} models; three of different architectures are enough. "
            f"Received: {len(listed)}"
        )
    models: list[tuple[keras.Model, OutputKind]] = []
    names: dict[str, str] = {owner.model_sha256: "the clean owner model"}
    outside = set[str]()
    for place, one in enumerate(listed, 1):
        model = one if isinstance(one, keras.Model) else _loaded(one, allow_code)
        name = f"Reference model {place} ({model.name!r})"
        models.append((model, _checked(model, name, owner)))
        digest = model_sha256(model)
        if digest in names:
            raise ModelError(
                f"{name} has the weights of {names[digest]}, so it says nothing new. Give a model of another "
                "architecture, or trained with another seed, on your own data."
            )
        names[digest] = f"reference model {place}"
        outside.update(code_outside(model))
    return References(tuple(models), tuple(names)[1:], tuple(sorted(outside)))


def _loaded(path: str | os.PathLike[str], allow_code: bool) -> keras.Model:
    """Loads a file, which may come from elsewhere, after the check that a suspect's file has to pass."""
    if not allow_code:
        try:
            check_keras_file(Path(path), os.fspath(path))
        except RefusedError as error:
            raise ModelError(f"{error.reason} {marking.UNSAFE_LOAD}") from error
        except SuspectError:  # a damaged file: loading it says so
            pass
    return marking.load_model(path, allow_code=allow_code)


def check_references(following: int | None) -> None:
    """Refuses the result of a test in which a reference model follows the secret signs.

    Args:
        following: which one, as `ReferenceCheck.following` says.

    Raises:
        ModelError: there is one.
    """
    if following is not None:
        raise ModelError(
            f"The answers of reference model {following} follow the secret signs of the key: it was marked, or trained "
            "on marked answers. What it explains would no longer be honest, so there is no result. Leave it out "
            "(reference=, --reference)."
        )


def _checked(model: keras.Model, name: str, owner: Owner) -> OutputKind:
    """What a reference model's outputs are, which are of the form of the owner's."""
    if marking.find_mark(model) is not None:
        raise ModelError(
            f"{name} carries a DynaMarkLayer. A reference must never have been marked: give the model as it was before "
            "dm.mark, and not the owner model itself."
        )
    if len(getattr(model, "outputs", None) or ()) != 1 or len(model.inputs) != 1:
        raise ModelError(f"{name} must have a graph with one input and one output, as the owner model has.")
    ours, theirs = owner.model.inputs[0], model.inputs[0]
    if not _fits(ours.shape, theirs.shape) or (str(theirs.dtype) == "string") != owner.takes_text:
        raise ModelError(
            f"{name} takes {theirs.dtype} of shape {tuple(theirs.shape[1:])}, the owner model {ours.dtype} of shape "
            f"{owner.input_shape}. Put what prepares the inputs into the reference model, as a layer."
        )
    try:
        kind = find_output_kind(model)
    except ModelError as error:
        raise ModelError(
            f"{name} does not tell what its outputs are. Let it end in a {owner.activation}, as a layer of its own, or "
            "load it with its loss and pass the model."
        ) from error
    shape = model.outputs[0].shape
    answered = answer_shape(shape[-1], kind.activation)
    if answered != (owner.num_classes, owner.num_labels) or kind.activation != owner.activation:
        form = f"a {owner.activation} over {owner.model.outputs[0].shape[-1]} outputs"
        raise ModelError(
            f"{name} answers with a {kind.activation} over {shape[-1]} outputs, the owner model with {form}. Give "
            "models trained for the owner's classes, in their order."
        )
    if not _fits(owner.model.outputs[0].shape, shape):
        raise ModelError(f"{name} answers at other positions than the owner model: {shape[1:-1]}. Give others.")
    return kind


def _fits(ours: tuple[int | None, ...], theirs: tuple[int | None, ...]) -> bool:
    """Whether two shapes can be the same."""
    return len(ours) == len(theirs) and all(
        None in pair or len({*pair}) == 1 for pair in zip(ours, theirs, strict=True)
    )
