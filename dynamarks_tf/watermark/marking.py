"""Put the mark on a model and take it off again: `mark`, `strip`, `find_mark`."""

from __future__ import annotations

import os
import warnings
from typing import Any

import keras
import numpy as np

from dynamarks_tf.errors import ModelError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark.layer import DynaMarkLayer
from dynamarks_tf.watermark.model_digest import model_sha256
from dynamarks_tf.watermark.outputs import OutputKind, find_output_kind, output_index, overrides_call
from dynamarks_tf.watermark.params import (
    DEFAULT_BUDGET,
    DEFAULT_TIE_MARGIN,
    answer_shape,
    class_channel_floor_log10,
)
from dynamarks_tf.watermark.probabilities import probabilities_of
from dynamarks_tf.watermark.probe import Probe, answer, probe_model

_WEAK_FLOOR_LOG10 = -6.0
_ALIKE = 1e-3


def mark(
    model: keras.Model,
    key: MarkKey,
    budget: float = DEFAULT_BUDGET,
    *,
    tie_margin: float = DEFAULT_TIE_MARGIN,
    activation: str | None = None,
    from_logits: bool | None = None,
    output: str | None = None,
    name: str = "dynamark",
    **layer_options: Any,
) -> keras.Model:
    """Appends a `DynaMarkLayer` to a trained classifier.

    The key is bound to the clean model: a model with other weights gets other secret signs. So the mark is the last
    step, after all training, and a model that was trained further is stripped and marked anew.

    The layers and their weights are shared, not copied: the clean model goes on working. A compiled model gives a
    model compiled with the same settings and a fresh optimizer.

    Args:
        model: a Sequential or Functional Keras model with an output: of C >= 2 classes, shape `(batch, ..., C)`, or of
            sigmoids for L >= 1 labels, shape `(batch, ..., L)`.
        key: the owner's key.
        budget: largest total variation between clean and released output, in (0, 0.5].
        tie_margin: how near a tie of the two best classes the key may decide, as the largest |log(p_a / p_b)|, in
            [0, 2]. 0 never changes a top-1 answer, and an attacker who keeps labels only cannot be detected then.
        activation: what turns the model's logits into probabilities, "softmax" or "sigmoid". Found from the loss, the
            last layer and a few answers if omitted; what none of them tells, or what they contradict, is refused.
        from_logits: whether the model ends in logits; the marked model does too. Found in the same way if omitted.
        output: name of the output to mark, of a model with several; the others stay as they are. The name is the key in
            a dict of outputs, or the name of the layer that makes it.
        name: name of the new layer.
        **layer_options: further arguments of `DynaMarkLayer`.

    Returns:
        The marked model, of the same kind as `model`.

    Raises:
        ModelError: the model cannot be marked: it is marked already, has several outputs of which none was named, is a
            subclass without a graph, or its outputs are no probability vectors.
        ArgumentError: the budget is out of range, or the output has fewer than two classes.

    Example:

    >>> marked = dm.mark(model, key, budget=0.05)
    >>> marked.evaluate(x_test, y_test)  # the accuracy of the clean model
    """
    _check_markable(model)
    index = output_index(model, output, "mark")
    probe = probe_model(model)
    kind = find_output_kind(model, activation=activation, from_logits=from_logits, index=index, probe=probe)
    num_classes, _ = answer_shape(model.outputs[index].shape[-1], kind.activation)
    settings = {"activation": kind.activation, "model_sha256": _digest_of_output(model, index), **layer_options}
    layer = DynaMarkLayer(key, budget, kind.from_logits, tie_margin=tie_margin, name=name, **settings)
    floor = class_channel_floor_log10(num_classes, layer.params)
    if floor > _WEAK_FLOOR_LOG10:
        warnings.warn(
            f"With {num_classes} classes the class channel has so few secret signs that no suspect can ever give a "
            f"p-value below 10^{floor:.1f} on fresh queries. Keep request logs: logged queries meet other secret signs "
            "as well.",
            stacklevel=2,
        )
    marked = _with_outputs(model, layer, index)
    if layer.favors_nothing:
        warnings.warn("This key happens to favor no class, so nothing is marked. Generate another key.", stacklevel=2)
    _check_same_model(model, marked, probe, kind, layer.budget, index)
    if not probe.answers:
        warnings.warn(
            f"Model {model.name!r} took none of the made-up inputs ({probe.problem}), so the marked model was not "
            "compared with it. Compare their answers to real inputs before you serve it: they differ by at most the "
            "budget.",
            stacklevel=2,
        )
    if _answers_alike(probe, kind, index):
        warnings.warn(
            f"Model {model.name!r} gave the same answer to all of {probe.of_output().shape[0]} made-up inputs. If it "
            "does so for real ones, its answers carry hardly any mark.",
            stacklevel=2,
        )
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
    if layer is None or layer is not _maker(marked, marked_output(marked)):
        where = "does not end in" if layer is None else "holds, but does not end in,"
        raise ModelError(
            f"Model {marked.name!r} {where} a DynaMarkLayer, so it cannot be stripped. Its layers: "
            f"{', '.join(inner.name for inner in marked.layers)}. Pass the inner model that ends in the layer."
        )
    if isinstance(marked, keras.Sequential):
        return _sequential_like(marked, marked.layers[:-1])
    inner = layer.input._keras_history[0]
    if overrides_call(inner) and getattr(inner, "outputs", None) and inner.name == marked.name:
        return inner  # `mark` wrapped it
    return keras.Model(marked.input, _like_output(marked, layer.input, marked_output(marked)), name=marked.name)


def marked_output(model: keras.Model) -> int:
    """Which of a model's outputs, counted flat, a `DynaMarkLayer` makes; 0 if none does."""
    made = (isinstance(_maker(model, index), DynaMarkLayer) for index in range(len(model.outputs)))
    return next((index for index, is_marked in enumerate(made) if is_marked), 0)


def _maker(model: keras.Model, index: int) -> Any:
    return model.layers[-1] if isinstance(model, keras.Sequential) else model.outputs[index]._keras_history[0]


def find_mark(model: keras.Model) -> DynaMarkLayer | None:
    """Returns the model's `DynaMarkLayer`, also inside nested models, wrappers and layers; `None` if there is none."""
    return next((layer for layer in model._flatten_layers() if isinstance(layer, DynaMarkLayer)), None)


def load_model(path: str | os.PathLike[str], *, compiled: bool = False, allow_code: bool = False) -> keras.Model:
    """Loads a Keras model file, with an error that says what to do when that fails.

    Args:
        path: a `.keras` or `.h5` file.
        compiled: whether to compile the model as it was, where Keras can; its loss tells what its outputs are.
        allow_code: whether to run code inside the file, such as that of `Lambda` layers. Only for files of one's own.

    Raises:
        ModelError: the file is missing or no Keras model, or needs code that was not allowed or is not known.
    """
    if not os.path.isfile(path):
        raise ModelError(f"There is no Keras model file {os.fspath(path)}.")
    if compiled:
        try:
            return keras.models.load_model(path, safe_mode=not allow_code)
        except Exception:  # the loss or a metric may be what Keras does not know; without them the model may load
            pass
    try:
        return keras.models.load_model(path, compile=False, safe_mode=not allow_code)
    except Exception as error:  # Keras raises what the damaged part happens to raise
        raise ModelError(f"{os.fspath(path)} cannot be loaded as a Keras model: {_loading_problem(error)}") from error


_LONGEST_REASON = 240
UNSAFE_LOAD = (
    "If the file is your own, load it with keras.models.load_model(path, safe_mode=False) and pass the model "
    "(--unsafe-load)."
)


def _loading_problem(error: Exception) -> str:
    """Why Keras could not load a file and what to do, without the configuration that Keras quotes in full."""
    text = " ".join(str(error).split())
    if "Lambda" in text and ("unsafe" in text or "disallowed" in text):
        return f"it holds the code of a Lambda layer, which Keras does not run unasked. {UNSAFE_LOAD}"
    if "Could not locate" in text:
        missing = text.partition("Could not locate")[2].partition(". ")[0].strip()
        return (
            f"it needs {missing:.{_LONGEST_REASON}}, which is not known here. Import the module that registers it "
            "before (--import MODULE)."
        )
    if "keras.src.engine" in text or "tf_keras" in text or ("from_config" in text and "batch_input_shape" in text):
        return (
            "it was written by Keras 2 (tf_keras). Rebuild the model in Keras 3 and carry the weights over: "
            "old.save_weights('w.weights.h5') there, new.load_weights('w.weights.h5') here."
        )
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def _check_markable(model: keras.Model) -> None:
    if not isinstance(model, keras.Model):
        is_old = any(base.__module__.startswith(("tf_keras.", "keras.src.engine.")) for base in type(model).__mro__)
        hint = (
            " It is a model of Keras 2: rebuild it in Keras 3 and carry the weights over with save_weights and "
            "load_weights; TF_USE_LEGACY_KERAS must not be set."
            if is_old
            else ""
        )
        raise ModelError(f"`model` must be a keras.Model. Received: a {type(model).__name__}.{hint}")
    if not getattr(model, "outputs", None):
        raise ModelError(
            f"Model {model.name!r} has no graph of layers to append to (a subclass of keras.Model, or not built yet). "
            "Wrap it: inputs = keras.Input(shape); keras.Model(inputs, model(inputs))"
        )
    _check_own_steps(model)
    if find_mark(model) is not None:
        raise ModelError(
            f"Model {model.name!r} is marked already. To mark it again, with another key or budget, strip it first: "
            "dm.mark(dm.strip(model), key)"
        )


_OWN_STEPS = ("predict", "predict_step", "train_step", "test_step")


def _check_own_steps(model: keras.Model) -> None:
    """Refuses a model whose class does more than its graph where a new model around the graph would not."""
    own = [name for name in _OWN_STEPS if not getattr(type(model), name).__module__.startswith("keras.")]
    if getattr(model, "preprocessor", None) is not None:
        own.append("preprocessor")
    if own:
        try:
            kind = find_output_kind(model)
            words = f', activation="{kind.activation}", from_logits={kind.from_logits}'
        except ModelError:  # what the outputs are has to be said then anyway
            words = ""
        raise ModelError(
            f"Model {model.name!r} is a {type(model).__name__} with {', '.join(own)} of its own, which a marked model "
            "would lose, so that it would answer otherwise. Mark its graph, which takes inputs that are preprocessed "
            f"already: dm.mark(keras.Model(model.inputs, model.outputs[0]), key{words})"
        )


def _check_same_model(
    model: keras.Model, marked: keras.Model, probe: Probe, kind: OutputKind, budget: float, index: int
) -> None:
    """Checks on made-up inputs that the mark moves answers by at most its budget, and comes off without a trace."""
    clean = stripped(marked)
    for batch, outputs in zip(probe.inputs, probe.answers, strict=True):
        before, without, after = outputs[index], answer(clean, batch)[index], answer(marked, batch)[index]
        tolerance = 1e-2 if "16" in str(model.outputs[0].dtype) else 1e-3
        moved = 0.5 * np.abs(_probabilities(after, kind) - _probabilities(before, kind)).sum(axis=-1).max()
        if not np.allclose(without, before, rtol=tolerance, atol=tolerance) or moved > budget + tolerance:
            raise ModelError(
                f"Model {model.name!r}, rebuilt with a mark, answers otherwise than before: by {moved:.2g} of total "
                f"variation at a budget of {budget}. Its class ({type(model).__name__}) does something that its graph "
                "of layers does not show, or its answers are random. Wrap it: inputs = keras.Input(shape); "
                "keras.Model(inputs, model(inputs))"
            )


def _probabilities(outputs: np.ndarray, kind: OutputKind) -> np.ndarray:
    """Probabilities of the classes along the last axis, whatever the outputs are."""
    return probabilities_of(outputs, kind.activation, from_logits=kind.from_logits)


def _answers_alike(probe: Probe, kind: OutputKind, index: int) -> bool:
    """Whether a model has one answer for everything. One class for all noise is common, also in good models."""
    return bool(probe.answers) and bool(np.ptp(_probabilities(probe.of_output(index), kind), axis=0).max() < _ALIKE)


def _digest_of_output(model: keras.Model, index: int) -> str:
    """Digest of what gives the marked output; the other outputs of a model do not count."""
    return model_sha256(model if len(model.outputs) == 1 else keras.Model(model.input, model.outputs[index]))


def _with_outputs(model: keras.Model, layer: DynaMarkLayer, index: int) -> keras.Model:
    if overrides_call(model):
        inputs = keras.tree.map_structure(
            lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name), model.input
        )
        outputs = keras.tree.flatten(model(inputs))
        outputs[index] = layer(outputs[index])
        return keras.Model(inputs, keras.tree.pack_sequence_as(model.output, outputs), name=model.name)
    if isinstance(model, keras.Sequential):
        return _sequential_like(model, [*model.layers, layer])
    return keras.Model(model.input, _like_output(model, layer(model.outputs[index]), index), name=model.name)


def _like_output(model: keras.Model, tensor: Any, index: int) -> Any:
    """The model's outputs with another tensor for one of them, in their structure: alone, in a list, in a dict."""
    return keras.tree.pack_sequence_as(model.output, [*model.outputs[:index], tensor, *model.outputs[index + 1 :]])


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
