"""DynaMarkLayer inside Keras: everything a user does with a marked model."""

import json
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from dynamarks_tf.errors import ArgumentError, FormatError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.layer import DynaMarkLayer
from dynamarks_tf.watermark.marking import find_mark, mark, strip
from dynamarks_tf.watermark.model_digest import model_sha256
from tests.helpers import ROOT, small_classifier

X = np.random.default_rng(0).random((20, 8, 8, 1), np.float32)
NEAR_A_BARREN_KEY = range(50, 57)  # of the keys that are numbers, 53 favors nothing: one in 64, for three classes


@pytest.fixture(scope="module")
def clean():
    return small_classifier(seed=3)


@pytest.fixture(scope="module")
def marked(clean, key):
    return mark(clean, key, budget=0.1, tie_margin=0)


@pytest.fixture(scope="module")
def expected(marked, clean):
    answers = np.asarray(marked(X, training=False))
    assert np.abs(answers - np.asarray(clean(X))).max() > 0.001  # the mark is there
    return answers


def test_predict_is_marked_and_close_to_a_plain_call(marked, expected):
    np.testing.assert_allclose(marked.predict(X, verbose=0), expected, atol=1e-6)


def test_training_true_returns_the_clean_answers_to_the_bit(marked, clean):
    np.testing.assert_array_equal(marked(X, training=True), clean(X, training=True))


def test_training_a_marked_model_is_training_the_clean_one_to_the_bit(key):
    labels = np.random.default_rng(1).integers(0, 10, len(X))

    def trained(is_marked):
        model = small_classifier(seed=5)
        model = mark(model, key) if is_marked else model
        keras.utils.set_random_seed(6)
        model.compile("adam", "sparse_categorical_crossentropy")
        history = model.fit(X, labels, batch_size=6, epochs=4, verbose=0)
        return history.history["loss"], (strip(model) if is_marked else model).get_weights()

    (loss_marked, weights_marked), (loss_clean, weights_clean) = trained(True), trained(False)
    assert loss_marked == loss_clean
    for one, other in zip(weights_marked, weights_clean, strict=True):
        np.testing.assert_array_equal(one, other)


def test_evaluate_gives_the_clean_accuracy_and_the_marked_loss(marked, clean, expected):
    labels = np.random.default_rng(1).integers(0, 10, len(X))
    results = {}
    for name, model in (("marked", marked), ("clean", clean)):
        model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        results[name] = model.evaluate(X, labels, verbose=0, return_dict=True)
    assert results["marked"]["accuracy"] == results["clean"]["accuracy"]
    np.testing.assert_allclose(results["marked"]["loss"], -np.log(expected[np.arange(20), labels]).mean(), rtol=1e-4)


def test_keras_file_round_trip(marked, expected, key, tmp_path):
    marked.save(tmp_path / "marked.keras")
    loaded = keras.models.load_model(tmp_path / "marked.keras")
    np.testing.assert_array_equal(loaded(X), expected)
    assert find_mark(loaded).was_made_with(key)
    assert find_mark(loaded).get_config() == find_mark(marked).get_config()


def test_weights_file_round_trip_restores_the_mark(marked, expected, tmp_path):
    marked.save_weights(tmp_path / "marked.weights.h5")
    rebuilt = keras.models.model_from_json(marked.to_json())
    assert find_mark(rebuilt).is_blank
    rebuilt.load_weights(tmp_path / "marked.weights.h5")
    assert not find_mark(rebuilt).is_blank
    np.testing.assert_array_equal(rebuilt(X), expected)


def test_clone_model_has_blank_tables_until_its_weights_are_set(marked, expected):
    clone = keras.models.clone_model(marked)
    assert find_mark(clone).is_blank
    clean_answers = np.asarray(strip(clone)(X))
    np.testing.assert_array_equal(clone(X), clean_answers)
    clone.set_weights(marked.get_weights())
    np.testing.assert_array_equal(clone(X), expected)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
@pytest.mark.parametrize("from_logits", [False, True])
def test_dtype_policies(policy, from_logits, key):
    with_policy = keras.DTypePolicy(policy)
    activation = None if from_logits else "softmax"
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(10, activation=activation, dtype=with_policy)], name="m"
    )
    marked = mark(model, key, from_logits=from_logits, tie_margin=0)
    x = np.random.default_rng(0).normal(size=(50, 5))
    plain, released = np.asarray(model(x)), np.asarray(marked(x))
    assert released.dtype == plain.dtype
    plain, released = plain.astype(np.float64), released.astype(np.float64)
    np.testing.assert_array_equal(plain.argmax(axis=1), released.argmax(axis=1))
    if from_logits:
        plain, released = (np.asarray(keras.ops.softmax(v)) for v in (plain, released))
    distance = np.abs(plain - released).sum(axis=1) / 2
    assert 0.02 < distance.max() < 0.05 + 0.01
    layer = DynaMarkLayer(key, tie_margin=0, dtype=with_policy)
    layer.build((None, 10))
    assert {str(w.dtype) for w in layer.weights} == {"int8", "int32", "float32"}


def test_the_layer_keeps_float32_inputs_under_a_half_precision_policy(key):
    layer = DynaMarkLayer(key, dtype="mixed_float16")
    p = np.full((1, 10), 0.1 - 1e-4, np.float32)
    p[0, 4] = 0.1 + 9e-4
    assert layer(p).dtype == "float32"
    assert int(np.argmax(layer(p))) == 4


@pytest.mark.parametrize("from_logits", [False, True])
def test_xla_gives_the_same_answers(key, from_logits):
    layer = DynaMarkLayer(key, 0.1, from_logits, tie_margin=0)
    values = tf.random.stateless_normal((64, 100), (1, 2)) * 3
    values = values if from_logits else tf.nn.softmax(values)
    plain = layer(values)
    compiled = tf.function(lambda x: layer(x), jit_compile=True)(values)
    np.testing.assert_allclose(compiled, plain, atol=2e-6)
    np.testing.assert_array_equal(np.argmax(compiled, 1), np.argmax(values, 1))


def test_a_compiled_marked_model_predicts_the_same(clean, key, expected):
    marked = mark(clean, key, budget=0.1, tie_margin=0)
    marked.compile(jit_compile=True)
    np.testing.assert_allclose(marked.predict(X, verbose=0), expected, atol=1e-6)


def test_tf_function_with_unknown_batch_size_traces_once(marked, expected):
    traces = []

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1))])
    def answer(x):
        traces.append(x.shape)
        return marked(x, training=False)

    for size in (0, 1, 20):
        np.testing.assert_allclose(answer(X[:size]), expected[:size], atol=1e-6)
    assert len(traces) == 1


def test_tf_data_input(marked, expected):
    dataset = tf.data.Dataset.from_tensor_slices(X).batch(7)
    np.testing.assert_allclose(marked.predict(dataset, verbose=0), expected, atol=1e-6)


def test_mirrored_strategy_on_one_device(key, expected):
    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        model = mark(small_classifier(seed=3), key, budget=0.1, tie_margin=0)
        model.compile("sgd", "sparse_categorical_crossentropy")
    np.testing.assert_allclose(model.predict(X, verbose=0), expected, atol=1e-6)
    model.fit(X, np.zeros(len(X)), epochs=1, verbose=0)
    assert find_mark(model).was_made_with(key)


def test_the_layer_can_be_appended_by_hand_and_nested(clean, key, expected):
    inputs = keras.Input((8, 8, 1))
    inner = keras.Model(inputs, DynaMarkLayer(key, 0.1, tie_margin=0, model_sha256=model_sha256(clean))(clean(inputs)))
    outer = keras.Sequential([keras.Input((8, 8, 1)), inner])
    np.testing.assert_allclose(outer(X), expected, atol=1e-6)
    assert find_mark(outer).was_made_with(key)


def test_tables_are_not_trainable_even_when_the_model_is_made_so(marked):
    layer = find_mark(marked)
    layer.trainable = True
    assert layer.trainable_weights == []
    assert len(layer.weights) == 4


def test_dense_outputs_are_marked_pixel_by_pixel(key):
    layer = DynaMarkLayer(key)
    p = keras.ops.softmax(np.random.default_rng(0).normal(size=(2, 4, 5, 10)).astype(np.float32))
    marked = np.asarray(layer(p))
    np.testing.assert_allclose(marked[1, 2, 3], np.asarray(layer(p[1, 2, 3][None]))[0], atol=1e-7)
    assert layer.compute_output_shape((None, 4, 5, 10)) == (None, 4, 5, 10)


NON_DEFAULT = {
    "budget": 0.2,
    "from_logits": True,
    "tie_margin": 0.3,
    "amplitudes": False,
    "table_rows": 7,
    "table_columns": 9,
    "name": "other",
    "dtype": "mixed_bfloat16",
}


def test_config_keeps_every_argument(key):
    layer = DynaMarkLayer(key, **NON_DEFAULT)
    layer.build((None, 10))
    again = DynaMarkLayer.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.key_id == key.key_id
    for name in ("budget", "from_logits", "table_rows", "table_columns", "name"):
        assert getattr(again, name) == NON_DEFAULT[name]
    assert again.dtype_policy.name == "mixed_bfloat16"


def test_config_and_repr_hold_no_secret(key):
    layer = DynaMarkLayer(key)
    before = json.dumps(layer.get_config())
    layer.build((None, 10))
    shown = before + json.dumps(layer.get_config()) + repr(layer) + str(vars(layer).get("_key"))
    for secret in (bytes(range(32)).hex(), "AAECAwQFBgcICQoLDA0ODw"):
        assert secret not in shown
    assert layer._key is None


def test_the_layer_can_be_pickled_and_copied_once_built(marked, expected):
    import copy
    import pickle

    np.testing.assert_array_equal(pickle.loads(pickle.dumps(marked))(X), expected)
    np.testing.assert_array_equal(copy.deepcopy(marked)(X), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"key": "acme.key"}, ArgumentError, r"`key` must be a dynamarks_tf\.MarkKey.*Received: a str"),
        ({"budget": 0.6}, ArgumentError, r"at most 0\.5\. Received: budget=0\.6"),
        ({"scheme": "dynamarks-9"}, FormatError, "marked by scheme 'dynamarks-9'; this release knows 'dynamarks-5'"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        DynaMarkLayer(**arguments)


def test_one_class_and_an_unknown_number_of_classes_are_refused(key):
    with pytest.raises(ArgumentError, match="has 1 class.*activation='sigmoid'"):
        DynaMarkLayer(key).build((None, 1))
    with pytest.raises(ArgumentError, match=r"number of classes, is unknown"):
        DynaMarkLayer(key).build((None, None))


def test_a_key_that_favors_nothing_is_not_taken_for_blank_tables():
    keys = [MarkKey(index.to_bytes(32, "big"), "x") for index in NEAR_A_BARREN_KEY]
    layers = [DynaMarkLayer(key) for key in keys]
    for layer in layers:
        layer.build((None, 3))
    signs = [codebook.expand(key, 3, layers[0].params).class_signs for key in keys]
    favored = [(one[~np.eye(3, dtype=bool)] > 0).any() for one in signs]
    assert [layer.favors_nothing for layer in layers] == [not any_favored for any_favored in favored]
    assert favored.count(False) == 1
    assert not any(layer.is_blank for layer in layers)


def test_an_unbuilt_layer_is_not_pickled_because_its_key_would_be_lost(key):
    import pickle

    with pytest.raises(TypeError, match="is pickled only once it is built"):
        pickle.dumps(DynaMarkLayer(key))


def test_integers_are_no_probabilities(key):
    with pytest.raises(ValueError, match="Received inputs of type int32"):
        DynaMarkLayer(key)(np.zeros((2, 10), np.int32))


@pytest.mark.parametrize(("num_classes", "limit"), [(1000, 2_000_000), (100_000, 4_000_000)])
def test_tables_stay_small(key, num_classes, limit):
    layer = DynaMarkLayer(key)
    layer.build((None, num_classes))
    assert sum(np.asarray(w).nbytes for w in layer.weights) <= limit


def test_the_layer_runs_on_jax_with_the_same_answers(key, tmp_path):
    script = textwrap.dedent(
        """
        import sys
        import numpy as np, keras
        from dynamarks_tf.keys.key import MarkKey
        from dynamarks_tf.watermark.layer import DynaMarkLayer
        assert keras.backend.backend() == "jax"
        data = np.load(sys.argv[1])
        key = MarkKey(bytes(range(32)), "ACME Vision")
        inputs = {name: keras.Input((100,), name=name) for name in ("p", "z")}
        layers = {name: DynaMarkLayer(key, 0.1, from_logits=name == "z", table_rows=64) for name in inputs}
        model = keras.Model(inputs, {name: layers[name](inputs[name]) for name in inputs})
        np.savez(sys.argv[2], **model.predict({name: data[name] for name in inputs}, verbose=0))
        """
    )
    z = np.random.default_rng(0).normal(size=(40, 100)).astype(np.float32) * 3
    p = np.asarray(keras.ops.softmax(z))
    np.savez(tmp_path / "in.npz", p=p, z=z)
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", script, "in.npz", "out.npz"], check=True, env=environment, cwd=tmp_path)
    answers = np.load(tmp_path / "out.npz")
    for name, values in (("p", p), ("z", z)):
        layer = DynaMarkLayer(MarkKey(bytes(range(32)), "ACME Vision"), 0.1, from_logits=name == "z", table_rows=64)
        np.testing.assert_allclose(answers[name], np.asarray(layer(values)), atol=2e-6)
