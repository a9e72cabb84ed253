"""Put the mark on a model and take it off again: `mark`, `strip`, `find_mark`."""

from __future__ import annotations

import os
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from dynamarks_tf.errors import ModelError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark.layer import DynaMarkLayer
from dynamarks_tf.watermark.params import (
    DEFAULT_BUDGET,
    DEFAULT_TIE_MARGIN,
    check_num_classes,
    class_channel_floor_log10,
)
from dynamarks_tf.watermark.probabilities import probability_problem

_WEAK_FLOOR_LOG10 = -6.0


def mark(
    model: keras.Model,
    key: MarkKey,
    budget: float = DEFAULT_BUDGET,
    *,
    tie_margin: float = DEFAULT_TIE_MARGIN,
    from_logits: bool = False,
    name: str = "dynamark",
    **layer_options: Any,
) -> keras.Model:
    """Appends a `DynaMarkLayer` to a trained classifier.

    The layers and their weights are shared, not copied: the clean model goes on working. A compiled model gives a
    model compiled with the same settings and a fresh optimizer.

    Args:
        model: a Sequential or Functional Keras model with one output of shape `(batch, ..., C)`, C >= 2.
        key: the owner's key.
        budget: largest total variation between clean and released output, in (0, 0.5].
        tie_margin: how near a tie of the two best classes the key may decide, as the largest |log(p_a / p_b)|, in
            [0, 2]. 0 never changes a top-1 answer, and an attacker who keeps labels only cannot be detected then.
        from_logits: whether the model ends in logits; the marked model does too.
        name: name of the new layer.
        **layer_options: further arguments of `DynaMarkLayer`.

    Returns:
        The marked model, of the same kind as `model`.

    Raises:
        ModelError: the model cannot be marked: it is marked already, has several outputs, is a subclass without a
            graph, or its outputs are no probability vectors.
        ArgumentError: the budget is out of range, or the output has fewer than two classes.

    Example:

    >>> marked = dm.mark(model, key, budget=0.05)
    >>> marked.evaluate(x_test, y_test)  # the accuracy of the clean model
    """
    _check_markable(model)
    num_classes = check_num_classes(model.outputs[0].shape[-1])
    layer = DynaMarkLayer(key, budget, from_logits, tie_margin=tie_margin, name=name, **layer_options)
    check_outputs(model, from_logits=from_logits)
    floor = class_channel_floor_log10(num_classes, layer.params)
    if floor > _WEAK_FLOOR_LOG10:
        warnings.warn(
            f"With {num_classes} classes the class channel has so few secret signs that no suspect can ever give a "
            f"p-value below 10^{floor:.1f} on fresh queries. Keep request logs: logged queries meet other secret signs "
            "as well.",
            stacklevel=2,
        )
    marked = _with_outputs(model, layer)
    if layer.favors_nothing:
        warnings.warn("This key happens to favor no class, so nothing is marked. Generate another key.", stacklevel=2)
    return _compiled_like(model, marked)


def strip(marked: keras.Model) -> keras.Model:
    """Returns the owner's clean model: the marked one without its `DynaMarkLayer`.

    Args:
        marked: a model made by `mark`, or any Sequential or Functional model that ends in a `DynaMarkLayer`.

    Returns:
        The clean model. Layers and weights are shared with `marked`.

    Raises:
        ModelError: the model does not end in a `DynaMarkLayer`.

    Example:

    >>> clean = dm.strip(keras.models.load_model("marked.keras"))
    """
    return _compiled_like(marked, stripped(marked))


def stripped(marked: keras.Model) -> keras.Model:
    """`strip` without compiling the result."""
    layer = find_mark(marked)
    if layer is None or layer is not marked.layers[-1]:
        where = "does not end in" if layer is None else "holds, but does not end in,"
        raise ModelError(
            f"Model {marked.name!r} {where} a DynaMarkLayer, so it cannot be stripped. Its layers: "
            f"{', '.join(inner.name for inner in marked.layers)}. Pass the inner model that ends in the layer."
        )
    if isinstance(marked, keras.Sequential):
        return _sequential_like(marked, marked.layers[:-1])
    return keras.Model(marked.input, _like_output(marked, layer.input), name=marked.name)


def find_mark(model: keras.Model) -> DynaMarkLayer | None:
    """Returns the model's `DynaMarkLayer`, also inside nested models; `None` if there is none."""
    for layer in getattr(model, "layers", ()):
        found = layer if isinstance(layer, DynaMarkLayer) else find_mark(layer)
        if found is not None:
            return found
    return None


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a Keras model file, with an error that says what to do when that fails.

    Args:
        path: a `.keras` or `.h5` file.

    Raises:
        ModelError: the file is missing or no Keras model.
    """
    if not os.path.isfile(path):
        raise ModelError(f"There is no Keras model file {os.fspath(path)}.")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises what the damaged part happens to raise
        raise ModelError(f"{os.fspath(path)} cannot be loaded as a Keras model: {error}") from error


def check_outputs(model: keras.Model, *, from_logits: bool) -> None:
    """Runs the model on a small probe and checks that its outputs are what the mark expects.

    The probe is a few inputs of fixed noise between 0 and 1; models with unknown inner dimensions or several inputs are
    not probed.

    Args:
        model: a built model with one output.
        from_logits: whether the outputs are meant to be logits.

    Raises:
        ModelError: outputs that are no probability vectors, although `from_logits` is false, or the reverse.
    """
    if from_logits and _is_trained_on_sigmoids(model):
        raise ModelError(
            f"Model {model.name!r} is compiled with a binary cross-entropy, so its {model.outputs[0].shape[-1]} logits "
            "stand for independent sigmoids, and from_logits=True is for those of one softmax. A multi-label model "
            "cannot be marked (docs/heads.md)."
        )
    shape = model.inputs[0].shape[1:]
    if len(model.inputs) != 1 or None in shape or model.inputs[0].dtype == "string":
        return
    probe = np.random.default_rng(0).random((4, *shape)).astype(model.inputs[0].dtype)
    answer = keras.tree.flatten(model(_in_structure(model, probe), training=False))[0]
    problem = probability_problem(ops.convert_to_numpy(ops.cast(answer, "float32")))
    if problem and not from_logits:
        raise ModelError(
            f"The outputs of model {model.name!r} are no probability vectors: {problem}. If they are logits, say "
            "from_logits=True; else end the model in a softmax. Independent sigmoids, one for each label, cannot be "
            "marked (docs/heads.md)."
        )
    if from_logits and not problem:
        raise ModelError(
            f"from_logits=True was given, but the outputs of model {model.name!r} are probability vectors already. "
            "Leave from_logits at False."
        )


def _is_trained_on_sigmoids(model: keras.Model) -> bool:
    loss = getattr(model, "loss", None)
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return "binary" in name.lower()


def _check_markable(model: keras.Model) -> None:
    if not isinstance(model, keras.Model):
        raise ModelError(f"`model` must be a keras.Model. Received: a {type(model).__name__}")
    if not getattr(model, "outputs", None):
        raise ModelError(
            f"Model {model.name!r} has no graph of layers to append to (a subclass of keras.Model, or not built yet). "
            "Wrap it: inputs = keras.Input(shape); keras.Model(inputs, model(inputs))"
        )
    if len(model.outputs) != 1:
        raise ModelError(
            f"Model {model.name!r} has {len(model.outputs)} outputs; `mark` needs exactly one. Append "
            "DynaMarkLayer(key) to the outputs of your choice yourself."
        )
    if find_mark(model) is not None:
        raise ModelError(
            f"Model {model.name!r} is marked already. To mark it again, with another key or budget, strip it first: "
            "dm.mark(dm.strip(model), key)"
        )


def _with_outputs(model: keras.Model, layer: DynaMarkLayer) -> keras.Model:
    if isinstance(model, keras.Sequential):
        return _sequential_like(model, [*model.layers, layer])
    return keras.Model(model.input, _like_output(model, layer(model.outputs[0])), name=model.name)


def _like_output(model: keras.Model, tensor: Any) -> Any:
    """The one output in the structure that the model gives it: alone, in a list, in a dict."""
    return keras.tree.pack_sequence_as(model.output, [tensor])


def _sequential_like(model: keras.Sequential, layers: list[keras.Layer]) -> keras.Sequential:
    # `model.layers` leaves out the input layer, without which the new model would not be built.
    first = model.get_config()["layers"][0]["config"]
    return keras.Sequential([keras.layers.InputLayer.from_config(first), *layers], name=model.name)


def _compiled_like(source: keras.Model, target: keras.Model) -> keras.Model:
    if not source.compiled:
        return target
    try:
        target.compile_from_config(source.get_compile_config())
    except Exception as error:  # whatever a loss or optimizer raises that Keras cannot rebuild from its configuration
        warnings.warn(
            f"Model {source.name!r} is compiled with something that Keras cannot rebuild ({error}); the new model is "
            "not compiled. Call its compile() yourself.",
            stacklevel=3,
        )
    return target


def _in_structure(model: keras.Model, array: np.ndarray) -> Any:
    return array if isinstance(model, keras.Sequential) else keras.tree.map_structure(lambda _: array, model.input)
