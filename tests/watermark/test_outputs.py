"""What the outputs of a model are: from its loss, its last layer and its answers, and never guessed."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, losses

from dynamarks_tf.errors import ArgumentError, ModelError
from dynamarks_tf.watermark.marking import find_mark, mark
from dynamarks_tf.watermark.outputs import OutputKind, check_output_kind, find_output_kind
from dynamarks_tf.watermark.probe import probe_model

SOFTMAX, SIGMOID = OutputKind("softmax", False), OutputKind("sigmoid", False)
LOGITS, SIGMOID_LOGITS = OutputKind("softmax", True), OutputKind("sigmoid", True)
CCE, SCCE, BCE = losses.CategoricalCrossentropy, losses.SparseCategoricalCrossentropy, losses.BinaryCrossentropy
TRUE, FALSE = {"from_logits": True}, {"from_logits": False}


def head(units=5, activation=None, loss=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8), layers.Dense(units, activation=activation)], name="m")
    if loss is not None:
        model.compile("sgd", loss)
    return model


def unknown_size(loss=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 9)(inputs))))
    model.compile("sgd", loss)
    return model


def nested(activation):
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Reshape((5,))(head(5, activation)(inputs)))


def with_layer(layer):
    inputs = keras.Input((6,))
    return keras.Model(inputs, layer(layers.Dense(5)(inputs)))


def tokens():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(11, 4)(inputs))
    model = keras.Model({"tokens": inputs}, layers.Dense(3)(x))
    model.compile("sgd", SCCE(from_logits=True))
    return model


def strings():
    lookup = layers.TextVectorization(output_sequence_length=3, vocabulary=["a", "good"])
    inputs = [keras.Input((), dtype="string"), keras.Input((2,))]
    x = layers.Flatten()(layers.Embedding(5, 4)(lookup(inputs[0])))
    return keras.Model(inputs, layers.Dense(3, "softmax")(layers.Concatenate()([x, inputs[1]])))


@pytest.mark.parametrize(
    ("make", "options", "kind"),
    [
        (lambda: head(5, "softmax"), {}, SOFTMAX),
        (lambda: head(5, "softmax", "mse"), {}, SOFTMAX),
        (lambda: head(5, "softmax", "binary_crossentropy"), {}, SOFTMAX),
        (lambda: head(5, "sigmoid"), {}, SIGMOID),
        (lambda: head(1, "sigmoid", "binary_crossentropy"), {}, SIGMOID),
        (lambda: head(5, "sigmoid", losses.binary_crossentropy), {}, SIGMOID),
        (lambda: head(5, None, SCCE(from_logits=True)), {}, LOGITS),
        (lambda: head(5, None, [CCE(from_logits=True)]), {}, LOGITS),
        (lambda: head(5, None, losses.CategoricalFocalCrossentropy(from_logits=True)), {}, LOGITS),
        (lambda: head(5, None, functools.partial(losses.categorical_crossentropy, from_logits=True)), {}, LOGITS),
        (lambda: head(5, None, BCE(from_logits=True)), {}, SIGMOID_LOGITS),
        (lambda: head(1, None, losses.BinaryFocalCrossentropy(from_logits=True)), {}, SIGMOID_LOGITS),
        (lambda: head(5), TRUE, LOGITS),
        (lambda: head(5), {"activation": "sigmoid", **TRUE}, SIGMOID_LOGITS),
        (lambda: head(1), TRUE, SIGMOID_LOGITS),
        (lambda: unknown_size(SCCE(from_logits=True)), {}, LOGITS),
        (lambda: nested("softmax"), {}, SOFTMAX),
        (lambda: nested("sigmoid"), {}, SIGMOID),
        (lambda: with_layer(layers.Softmax()), {}, SOFTMAX),
        (lambda: with_layer(layers.Activation("sigmoid")), {}, SIGMOID),
        (lambda: with_layer(keras.ops.softmax), {}, SOFTMAX),
        (tokens, {}, LOGITS),
        (strings, {}, SOFTMAX),
    ],
)
def test_what_is_seen_is_believed(make, options, kind):
    model = make()
    assert find_output_kind(model, **options) == kind
    check_output_kind(model, kind)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: head(5, "softmax", SCCE(from_logits=True)), {}, "loss has from_logits=True, but the outputs are prob"),
        (lambda: head(5, "sigmoid", SCCE()), {}, "scores of sigmoids, and the loss of a softmax"),
        (lambda: head(5, "sigmoid", BCE(from_logits=True)), {}, "the loss has from_logits=True, but"),
        (lambda: head(5, None, SCCE()), {}, "no probability vectors.*last activation is linear"),
        (lambda: head(5, None, BCE()), {}, "no probability vectors"),
        (lambda: head(5, "softmax"), TRUE, r"from_logits=True \(--from-logits\) was given, but the out"),
        (lambda: head(5, "sigmoid"), TRUE, "holds probabilities already"),
        (lambda: head(5), {}, r"nothing tells what it is.*say activation=\"softmax\" \(--activation softmax\)"),
        (lambda: head(5), {"activation": "softmax", **FALSE}, "no probability vectors"),
        (lambda: head(1), {}, "may be probabilities or logits"),
        (lambda: head(5, "hard_sigmoid"), {}, "nothing tells what it is.*last activation is hard_sigmoid"),
        (lambda: head(5, "hard_sigmoid"), {"activation": "sigmoid"}, "nothing tells which"),
        (lambda: head(5, "softmax"), {"activation": "sigmoid"}, "contradicts the model"),
        (lambda: head(5, None, BCE(from_logits=True)), {"activation": "softmax"}, "contradicts the loss"),
        (lambda: head(5, None, SCCE(from_logits=True)), FALSE, "contradicts the loss"),
        (lambda: head(1, "softmax"), {}, "softmax of one number"),
        (unknown_size, {}, "nothing tells"),
        (lambda: with_layer(layers.Softmax(axis=0)), {}, "no probability vectors"),
    ],
)
def test_contradictions_and_silence_are_refused(make, options, message):
    with pytest.raises(ModelError, match=message):
        find_output_kind(make(), **options)


def test_an_unknown_activation_is_refused():
    with pytest.raises(ArgumentError, match="must be 'softmax' or 'sigmoid'"):
        find_output_kind(head(), activation="tanh")


class Picky(layers.Layer):
    def call(self, x):
        raise RuntimeError("no noise please")

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype=x.dtype)


def test_a_model_that_cannot_be_asked_needs_both_words():
    model = keras.Sequential([keras.Input((6,)), Picky(), layers.Dense(5, "softmax")])
    with pytest.raises(ModelError, match=r"none of the made-up inputs \(RuntimeError.*Say both"):
        find_output_kind(model, **FALSE)
    assert find_output_kind(model, activation="softmax", from_logits=False) == SOFTMAX


def test_inputs_are_made_up_for_every_model():
    for model in (head(), unknown_size(), tokens(), strings()):
        assert probe_model(model).of_output().shape[-1] == model.outputs[0].shape[-1]
    assert np.ptp(probe_model(tokens()).inputs[1]["tokens"]) > 1


def test_logits_that_their_loss_names_are_marked_as_logits(key):
    model = unknown_size(SCCE(from_logits=True))
    marked = mark(model, key, tie_margin=0)
    assert find_mark(marked).from_logits
    x = np.linspace(0, 40, 50, dtype="f4")[:, None, None, None] * np.random.default_rng(1).random((50, 32, 32, 3), "f4")
    clean, released = (keras.ops.convert_to_numpy(keras.ops.softmax(one(x))) for one in (model, marked))
    assert 0 < 0.5 * np.abs(clean - released).sum(axis=1).max() <= 0.05 + 1e-5
