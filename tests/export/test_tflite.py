"""TensorFlow Lite files: built-in operators only, the mark in float32 whatever the model is quantized to."""

import functools
import os
import stat

import keras
import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.errors import ArgumentError, ExportError, ModelError
from dynamarks_tf.export.tflite_conversion import LiteModel
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.marking import find_mark
from dynamarks_tf.watermark.metrics import total_variation
from tests.helpers import small_surrogate, verifying
from tests.helpers.tflite import operators

BUDGET = 0.1


@pytest.fixture(scope="module")
def marked(owner_model, key):
    """With ties, so that every channel is in the file."""
    return dm.mark(owner_model, key, budget=BUDGET)


@pytest.fixture(scope="module")
def export(marked, owner_model, digits, tmp_path_factory):
    """Exports marked and clean model in the same way, once for each, and says what they answer."""

    @functools.cache
    def export(quantize):
        folder = tmp_path_factory.mktemp("lite")
        options = {"quantize": quantize, "representative": digits.x_train[:100]}
        answers = {}
        for name, model in (("marked", marked), ("clean", owner_model)):
            path = dm.export_tflite(model, folder / f"{name}.tflite", **options)
            answers[name] = LiteModel(path.read_bytes()).answer({"image": digits.x_test})
        return quantize, folder / "marked.tflite", answers

    return export


@pytest.fixture(params=[None, "float16", "int8"], ids=str)
def exported(request, export):
    return export(request.param)


def test_the_file_marks_its_own_clean_answers_as_the_layer_does(exported, marked):
    _, _, answers = exported
    expected = np.asarray(find_mark(marked)(answers["clean"]))
    np.testing.assert_allclose(answers["marked"], expected, atol=1e-6)
    moved = total_variation(answers["marked"], answers["clean"])
    assert moved.max() <= BUDGET + 1e-6
    assert (moved > BUDGET / 2).mean() > 0.3  # the amplitude channel spends the budget on half of the inputs


def test_the_mark_of_the_quantized_file_is_mostly_that_of_the_float32_model(exported, marked, owner_model, digits, key):
    """The secret signs of an input depend on its clean answer, which quantization changes a little. Measured on these
    digits: the same hash value for 100, 99 and 82 % of the inputs; correlation 1.00, 0.99 and 0.88."""
    quantize, _, answers = exported
    clean, released = (np.asarray(model.predict(digits.x_test, verbose=0)) for model in (owner_model, marked))
    keyed_hash = codebook.expand(key, 10, dm.MarkParams()).keyed_hash
    agreeing = (keyed_hash.hashes(clean) == keyed_hash.hashes(answers["clean"])).mean()
    one, other = (released - clean).ravel(), (answers["marked"] - answers["clean"]).ravel()
    correlation = np.corrcoef(one, other)[0, 1]
    least_agreeing, least_correlation = {None: (0.99, 0.99), "float16": (0.97, 0.97), "int8": (0.7, 0.75)}[quantize]
    assert agreeing >= least_agreeing
    assert correlation >= least_correlation
    if quantize is None:
        np.testing.assert_allclose(answers["marked"], released, atol=1e-5)


def test_built_in_operators_suffice_and_the_softmax_is_not_quantized(exported):
    quantize, path, answers = exported
    needed = operators(path.read_bytes())
    assert "CUSTOM" not in needed
    assert "FULLY_CONNECTED" in needed
    assert ("QUANTIZE" in needed) == (quantize == "int8")
    assert ((answers["clean"] > 0) & (answers["clean"] < 1 / 256)).mean() > 0.1  # less than the one step of eight bits


def test_the_file_is_private_and_stands_alone(exported):
    _, path, _ = exported
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(os.listdir(path.parent)) == ["clean.tflite", "marked.tflite"]


def test_any_batch_size_gives_the_same_answers(exported, digits):
    """In the interpreter that devices have, which starts with a batch of one and resizes on request."""
    from ai_edge_litert.interpreter import Interpreter

    _, path, answers = exported
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (taken["dtype"], given["dtype"]) == (np.float32, np.float32)
    for size in (1, 3, 20):
        if size > 1:
            interpreter.resize_tensor_input(taken["index"], (size, 8, 8, 1))
        interpreter.allocate_tensors()
        interpreter.set_tensor(taken["index"], digits.x_test[:size])
        interpreter.invoke()
        np.testing.assert_allclose(interpreter.get_tensor(given["index"]), answers["marked"][:size], atol=1e-5)


def test_a_surrogate_of_the_int8_file_is_detected(export, marked, key, digits):
    _, path, _ = export("int8")
    stolen = digits.x_train[len(digits.x_train) // 2 :]
    answers = LiteModel(path.read_bytes()).answer({"image": stolen})
    surrogate = train_classifier(small_surrogate(), stolen, answers, epochs=40, batch_size=32)
    assert verifying.verify(surrogate, owner=marked, key=key, queries=digits.x_test).detected()


def test_logits_of_many_classes(key, tmp_path):
    """70 classes share rows of the sign table, groups and hashed classes; logits have no softmax before the mark."""
    keras.utils.set_random_seed(0)
    stack = [keras.Input((6,), name="x"), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(70)]
    model = keras.Sequential(stack)
    marked = dm.mark(model, key, from_logits=True, tie_margin=0)
    x = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    options = {"quantize": "int8", "representative": x}
    clean = LiteModel(dm.export_tflite(model, tmp_path / "clean.tflite", **options).read_bytes()).answer({"x": x})
    given = LiteModel(dm.export_tflite(marked, tmp_path / "marked.tflite", **options).read_bytes()).answer({"x": x})
    np.testing.assert_allclose(given, np.asarray(find_mark(marked)(clean)), atol=1e-5)
    np.testing.assert_array_equal(given.argmax(axis=1), clean.argmax(axis=1))
    relative = clean - clean.max(axis=1, keepdims=True)
    assert np.abs(given - relative).max() > 0.01


def test_exporting_leaves_the_model_as_it_was(exported, marked, owner_model):
    assert dm.strip(marked).get_config() == owner_model.get_config()


def test_nothing_is_overwritten(marked, tmp_path):
    (tmp_path / "m.tflite").write_bytes(b"mine")
    with pytest.raises(ExportError, match=r"m\.tflite exists\. A model is never overwritten"):
        dm.export_tflite(marked, tmp_path / "m.tflite")
    assert (tmp_path / "m.tflite").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"quantize": "int8"}, ArgumentError, "from `representative` inputs, and there are none"),
        ({"quantize": "int8", "representative": np.zeros((0, 8, 8, 1))}, ArgumentError, "and there are none"),
        (
            {"quantize": "int8", "representative": np.zeros((9, 8, 8))},
            ArgumentError,
            r"representative input 'image' has",
        ),
        ({"quantize": "int4"}, ArgumentError, "one of float16, int8. Received: quantize='int4'"),
    ],
)
def test_a_refusal_leaves_nothing_behind(options, error, message, marked, tmp_path):
    with pytest.raises(error, match=message):
        dm.export_tflite(marked, tmp_path / "m.tflite", **options)
    assert not any(tmp_path.iterdir())


def test_models_that_cannot_be_exported(marked, key, tmp_path):
    with pytest.raises(ExportError, match=r"does not end in \.tflite\. Name a file: .*served\.tflite"):
        dm.export_tflite(marked, tmp_path / "served")
    with pytest.raises(ModelError, match="has blank tables"):
        dm.export_tflite(keras.models.clone_model(marked), tmp_path / "m.tflite")
    outer = keras.Sequential([keras.Input((8, 8, 1)), marked])
    with pytest.raises(ModelError, match="not its last layer.*Export the inner model"):
        dm.export_tflite(outer, tmp_path / "m.tflite")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.ops.softmax(keras.ops.erfinv(inputs)))
    with pytest.raises(ExportError, match=r"cannot express the model .* in its built-in operators: tf\.Erfinv\."):
        dm.export_tflite(model, tmp_path / "m.tflite")
    assert not any(tmp_path.iterdir())
