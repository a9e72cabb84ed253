"""What the outputs of a classifier are: probabilities or logits, of one softmax or of sigmoids. Never guessed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from dynamarks_tf.errors import ArgumentError, ModelError
from dynamarks_tf.watermark.params import Activation
from dynamarks_tf.watermark.probabilities import probability_problem
from dynamarks_tf.watermark.probe import Probe, probe_model

_SOFTMAX_LOSSES = ("categoricalcrossentropy", "sparsecategoricalcrossentropy", "categoricalfocalcrossentropy")
_SIGMOID_LOSSES = ("binarycrossentropy", "binaryfocalcrossentropy", "bce")
# Layers that move or keep numbers without changing them; keras.ops has some of the same names.
_CARRIERS = ("Reshape", "Flatten", "Permute", "Transpose", "Identity", "Dropout", "ExpandDims", "Squeeze")

# In the words of both interfaces.
LOGITS = "from_logits=True (--from-logits)"
PROBABILITIES = "from_logits=False (--from-probabilities)"
SOFTMAX = 'activation="softmax" (--activation softmax)'
SIGMOID = 'activation="sigmoid" (--activation sigmoid)'


@dataclasses.dataclass(frozen=True)
class OutputKind:
    """What a model's outputs are.

    Attributes:
        activation: what turns its logits into probabilities: one softmax over all units, or a sigmoid for each.
        from_logits: whether the model ends before it.
    """

    activation: Activation
    from_logits: bool


@dataclasses.dataclass(frozen=True)
class _Loss:
    """What a loss says of the outputs it is given."""

    name: str
    activation: Activation
    from_logits: bool


def find_output_kind(
    model: keras.Model,
    *,
    activation: str | None = None,
    from_logits: bool | None = None,
    index: int = 0,
    probe: Probe | None = None,
) -> OutputKind:
    """Finds out what the outputs of a model are, from all evidence there is, or refuses.

    The evidence: the arguments, the loss that the model is compiled with, the activation of its last layer, and its
    answers to noise. Whatever contradicts itself is refused, and so is what nothing tells.

    Args:
        model: a built Keras model.
        activation: "softmax" or "sigmoid", if the caller knows.
        from_logits: whether the outputs are logits, if the caller knows.
        index: which of the outputs, counted flat.
        probe: what `probe_model` gave for the model, if it was called already.

    Raises:
        ArgumentError: `activation` is another word.
        ModelError: the evidence contradicts itself, or more has to be said.

    Example:

    >>> model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> find_output_kind(model)
    OutputKind(activation='softmax', from_logits=True)
    """
    if activation not in (None, "softmax", "sigmoid"):
        raise ArgumentError(f"`activation` must be 'softmax' or 'sigmoid' (or None). Received: {activation!r}")
    units = model.outputs[index].shape[-1]
    loss = _loss_of(model, index)
    last = _last_activation(model, index)
    probe = probe_model(model) if probe is None else probe
    start = (
        f"Output {index} of model {model.name!r}" if len(model.outputs) > 1 else f"The output of model {model.name!r}"
    )
    if not probe.answers:
        if activation is None or from_logits is None:
            raise ModelError(
                f"{start} could not be looked at: the model took none of the made-up inputs ({probe.problem}). Say "
                f"both what it is, {SOFTMAX} or {SIGMOID}, and whether it is logits, {LOGITS} or {PROBABILITIES}."
            )
        looks, seen = None, "it was not asked"
    else:
        looks, seen = _look(probe.of_output(index), units)
    if looks == "broken":
        raise ModelError(f"{start} holds no probability vectors: {seen}.")
    facts = _facts(units, loss, last, seen)
    found = _activation(start, facts, units, activation, from_logits, loss, last, looks)
    logits = _from_logits(start, facts, found, activation, from_logits, loss, last, looks)
    return OutputKind(found, logits)


def check_output_kind(model: keras.Model, kind: OutputKind, *, index: int = 0) -> None:
    """Checks that nothing seen of a model contradicts what its outputs were said to be.

    Args:
        model: a built Keras model, without its mark.
        kind: what its outputs were said to be.
        index: which of the outputs, counted flat.

    Raises:
        ModelError: something contradicts it.
    """
    find_output_kind(model, activation=kind.activation, from_logits=kind.from_logits, index=index)


def _activation(
    start: str,
    facts: str,
    units: int,
    given: str | None,
    from_logits: bool | None,
    loss: _Loss | None,
    last: str | None,
    looks: str | None,
) -> Activation:
    if units == 1:
        if given == "softmax" or last == "softmax" or (loss is not None and loss.activation == "softmax"):
            raise ModelError(
                f"{start} has one unit, and the softmax of one number is always 1. {facts} End the model in a sigmoid, "
                "or in a softmax of two units."
            )
        return "sigmoid"
    if given is not None:
        if last in ("softmax", "sigmoid") and last != given:
            raise ModelError(
                f"activation={given!r} (--activation {given}) contradicts the model. {facts} Leave it out."
            )
        if loss is not None and loss.activation != given and last != given:
            raise ModelError(
                f"activation={given!r} (--activation {given}) contradicts the loss. {facts} Compile the model with the "
                "loss that it was trained with, or leave the word out."
            )
        return "softmax" if given == "softmax" else "sigmoid"
    if last == "softmax":
        return "softmax"
    if last == "sigmoid":
        if loss is not None and loss.activation == "softmax":
            raise ModelError(
                f"{start} contradicts itself: scores of sigmoids, and the loss of a softmax. {facts} If the scores are "
                f"independent labels, say {SIGMOID}; else end the model in a softmax."
            )
        return "sigmoid"
    if loss is not None:
        if loss.activation == "sigmoid" and looks == "probabilities":
            return "softmax"
        return loss.activation
    if looks == "probabilities" or (from_logits and looks != "probabilities"):
        return "softmax"
    what = "logits" if looks == "logits" else "scores between 0 and 1"
    raise ModelError(
        f"{start} holds no probability vectors, and nothing tells what it is. {facts} If these are {what} of one "
        f"softmax over {units} classes, say {SOFTMAX}; if they are independent labels, say {SIGMOID}; and say {LOGITS} "
        f"if no activation was applied yet, else {PROBABILITIES}. Or compile the model with "
        "the loss that it was trained with."
    )


def _from_logits(
    start: str,
    facts: str,
    activation: Activation,
    given_activation: str | None,
    given: bool | None,
    loss: _Loss | None,
    last: str | None,
    looks: str | None,
) -> bool:
    is_activated = last in ("softmax", "sigmoid")
    if loss is not None and loss.from_logits and (is_activated or looks == "probabilities"):
        raise ModelError(
            f"{start} contradicts itself: the loss has from_logits=True, but the outputs are probabilities already. "
            f"{facts} Compile the model with the loss that fits it, and train it again."
        )
    if given and (is_activated or looks == "probabilities"):
        raise ModelError(f"{LOGITS} was given, but {_lower(start)} holds probabilities already. {facts} Leave it out.")
    if given is not None and loss is not None and loss.from_logits != given:
        word = LOGITS if given else PROBABILITIES
        raise ModelError(
            f"{word} contradicts the loss. {facts} Leave the word out, or compile the model with the loss that it was "
            "trained with."
        )
    probable = "probabilities" if activation == "softmax" else "scores"
    if given is False or (loss is not None and not loss.from_logits) or is_activated:
        if looks not in (probable, None) and not (activation == last == "sigmoid" and looks == "probabilities"):
            raise ModelError(
                f"{start} holds no probability vectors. {facts} If these are logits, say {LOGITS}, and compile the "
                f"model with a loss that has from_logits=True or not at all; else end it in a {activation}."
            )
        if last == "linear" and looks == "scores" and given is None:
            raise ModelError(
                f"{start} may be probabilities or logits: it ends without an activation, but stays between 0 and 1. "
                f"{facts} Say {LOGITS} or {PROBABILITIES}."
            )
        return False
    if given is not None:
        return given
    if loss is not None:
        if looks == "scores" and last != "linear":
            raise ModelError(
                f"{start} may be probabilities or logits: the loss says logits, but it stays between 0 and 1. {facts} "
                f"Say {LOGITS} or {PROBABILITIES}."
            )
        return True
    if activation == "softmax" and looks == "probabilities":
        return False
    if given_activation is not None and looks == "logits":
        return True
    raise ModelError(
        f"{start} may be probabilities or logits, and nothing tells which. {facts} Say {LOGITS} if no activation was "
        f"applied yet, else {PROBABILITIES}. Or compile the model with the loss that it was trained with."
    )


def _look(answers: Any, units: int) -> tuple[str, str]:
    """What answers look like, and that in words."""
    if not np.all(np.isfinite(answers)):
        return "broken", "they hold NaN or infinity"
    low, high = float(answers.min()), float(answers.max())
    if low < 0 or high > 1 + 1e-6:
        return "logits", f"its answers to noise lie between {low:.4g} and {high:.4g}"
    if units > 1:
        problem = probability_problem(answers)
        if problem is None:
            return "probabilities", "its answers to noise are probabilities that sum to 1"
        return "scores", f"its answers to noise lie between 0 and 1, and {problem}"
    return "scores", "its answers to noise lie between 0 and 1"


def _facts(units: int, loss: _Loss | None, last: str | None, seen: str) -> str:
    compiled = (
        "no loss tells"
        if loss is None
        else f"its loss is {loss.name} with from_logits={loss.from_logits}, of a {loss.activation}"
    )
    ends = "its last activation is unknown" if last is None else f"its last activation is {last}"
    return f"Seen: {units} units; {compiled}; {ends}; {seen}."


def _lower(start: str) -> str:
    return start[0].lower() + start[1:]


def _loss_of(model: keras.Model, index: int) -> _Loss | None:
    loss = getattr(model, "loss", None)
    if isinstance(loss, Mapping):
        names = list(getattr(model, "output_names", ()))
        keys = list(model.output) if isinstance(getattr(model, "output", None), Mapping) else names
        names = sorted(keys) if isinstance(getattr(model, "output", None), Mapping) else names
        loss = next(iter(loss.values())) if len(loss) == len(model.outputs) == 1 else loss.get(names[index])
    if isinstance(loss, (list, tuple)):
        loss = loss[index] if index < len(loss) else None
    options: dict[str, Any] = {}
    while isinstance(loss, functools.partial):
        options = {**loss.keywords, **options}
        loss = loss.func
    if loss is None:
        return None
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    plain = name.lower().replace("_", "")
    has_logits = options.get("from_logits", getattr(loss, "from_logits", None))
    if has_logits is None:
        has_logits = getattr(loss, "_fn_kwargs", {}).get("from_logits", False)
    if plain in _SOFTMAX_LOSSES:
        return _Loss(name, "softmax", bool(has_logits))
    if plain in _SIGMOID_LOSSES:
        return _Loss(name, "sigmoid", bool(has_logits))
    return None


def _last_activation(model: keras.Model, index: int) -> str | None:
    """Name of the activation that made an output, where it can be read: softmax, sigmoid, linear, ..."""
    layer, tensor = _producer(model, index)
    while type(layer).__name__ in _CARRIERS and tensor is not None:
        before = keras.tree.flatten(layer._inbound_nodes[tensor._keras_history[1]].input_tensors)
        if len(before) != 1:
            return None
        tensor = before[0]
        layer, position = tensor._keras_history[0], tensor._keras_history[2]
        if getattr(layer, "outputs", None):
            layer, tensor = _producer(layer, position)
    while isinstance(layer, keras.layers.Wrapper):
        layer = layer.layer
        if getattr(layer, "outputs", None):
            layer, _ = _producer(layer, 0)
    if type(layer).__name__ in ("Softmax", "Sigmoid"):
        return type(layer).__name__.lower()
    function = getattr(layer, "activation", None)
    return None if function is None else getattr(function, "__name__", None)


def _producer(model: Any, index: int) -> tuple[Any, Any]:
    """The layer that makes an output, also inside nested models, and the tensor that it makes."""
    tensor = model.outputs[index]
    layer, _, position = tensor._keras_history
    while getattr(layer, "outputs", None) and not overrides_call(layer):
        tensor = layer.outputs[position]
        layer, _, position = tensor._keras_history
    return layer, tensor


def overrides_call(model: Any) -> bool:
    """Whether a model with a graph computes something else than its graph, in a `call` of its own."""
    return isinstance(model, keras.Model) and not type(model).call.__module__.startswith("keras.")


def output_index(model: keras.Model, output: str | None, purpose: str) -> int:
    """Which of a model's outputs, counted flat, has a name.

    Args:
        model: a model with a graph.
        output: the name: the key in a dict of outputs, or the name of the layer that makes it. `None` for the only one.
        purpose: what the output is chosen for, a verb, for messages.

    Raises:
        ModelError: there is none of that name, or there are several and none is named.
    """
    if output is None and len(model.outputs) == 1:
        return 0
    structure = None if isinstance(model, keras.Sequential) else model.output
    names = sorted(structure) if isinstance(structure, dict) else [_maker_name(tensor) for tensor in model.outputs]
    if output is None or names.count(output) != 1:
        what = f"has {len(model.outputs)} outputs" if output is None else f"has no output {output!r}"
        raise ModelError(
            f"Model {model.name!r} {what}. Name the one to {purpose}, output=NAME (--output NAME); its outputs: "
            f"{', '.join(names)}."
        )
    return names.index(output)


def _maker_name(tensor: Any) -> str:
    """The name of the layer that makes an output; marking does not change it."""
    maker = tensor._keras_history[0]
    return _maker_name(maker.input) if hasattr(maker, "is_blank") else str(maker.name)
