"""Putting the mark on and taking it off: `mark`, `strip`, `find_mark`, `load_model`."""

import warnings

import keras
import numpy as np
import pytest

from dynamarks_tf.errors import ArgumentError, ModelError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.verification.owner import resolve_owner
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.marking import find_mark, load_model, mark, strip
from dynamarks_tf.watermark.model_digest import model_sha256
from dynamarks_tf.watermark.params import MarkParams
from tests.helpers import small_classifier

X = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)


def functional(inputs=None, name="functional"):
    inputs = inputs if inputs is not None else keras.Input((8, 8, 1), name="image")
    x = keras.tree.flatten(inputs)[0]
    outputs = keras.layers.Dense(10, activation="softmax")(keras.layers.Flatten()(x))
    return keras.Model(inputs, outputs, name=name)


def dict_inputs():
    return functional({"image": keras.Input((8, 8, 1), name="image")})


def with_softmax_layer():
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10), keras.layers.Softmax()]
    )


def list_output():
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, [functional(inputs).output], name="list")


def dict_output():
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, {"p": functional(inputs).output}, name="dict")


def only(output):
    return keras.tree.flatten(output)[0]


@pytest.mark.parametrize(
    "make", [small_classifier, functional, dict_inputs, with_softmax_layer, list_output, dict_output]
)
def test_strip_gives_the_clean_model_back(make, key):
    clean = make()
    marked = mark(clean, key, tie_margin=0)
    assert type(marked) is type(clean)
    assert marked.name == clean.name
    stripped = strip(marked)
    assert stripped.get_config() == clean.get_config()
    x = {"image": X} if make is dict_inputs else X
    assert type(marked(x)) is type(clean(x))
    np.testing.assert_array_equal(only(stripped(x)), only(clean(x)))
    assert not np.array_equal(only(marked(x)), only(clean(x)))
    np.testing.assert_array_equal(np.argmax(only(marked(x)), 1), np.argmax(only(clean(x)), 1))


def test_strip_works_on_a_loaded_file_and_a_second_mark_is_independent(key, other_key, tmp_path):
    clean = small_classifier()
    mark(clean, key).save(tmp_path / "m.keras")
    again = mark(strip(load_model(tmp_path / "m.keras")), other_key)
    assert find_mark(again).was_made_with(other_key)
    assert not find_mark(again).was_made_with(key)
    np.testing.assert_array_equal(strip(again)(X), clean(X))


def test_a_compiled_model_stays_compiled(key):
    model = small_classifier()
    model.compile(keras.optimizers.SGD(0.3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    marked = mark(model, key)
    assert marked.evaluate(X, np.zeros(6), verbose=0, return_dict=True).keys() == {"loss", "accuracy"}
    assert marked.optimizer is not model.optimizer
    assert float(marked.optimizer.learning_rate) == pytest.approx(0.3)


@pytest.mark.parametrize("custom", [lambda y, p: keras.losses.sparse_categorical_crossentropy(y, p) * 2])
def test_a_loss_that_keras_cannot_rebuild_leaves_the_marked_model_uncompiled(custom, key):
    model = small_classifier()
    model.compile("adam", custom)
    with pytest.warns(UserWarning, match=r"cannot rebuild .* Call its compile\(\) yourself"):
        marked = mark(model, key)
    assert not marked.compiled
    marked.compile("adam", custom)
    with pytest.warns(UserWarning, match="cannot rebuild"):
        assert not strip(marked).compiled


def test_a_model_that_standardises_each_input_can_be_marked(key):
    inputs = keras.Input((8, 8, 1))
    mean = keras.ops.mean(inputs, axis=(1, 2, 3), keepdims=True)
    x = (inputs - mean) / keras.ops.std(inputs, axis=(1, 2, 3), keepdims=True)
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(keras.layers.Flatten()(x)))
    assert find_mark(mark(model, key)) is not None


def test_a_key_that_favors_nothing_is_named():
    model = head(3, "softmax")
    digest = model_sha256(model)
    keys = (MarkKey(index.to_bytes(32, "big"), "x") for index in range(2000))  # one in 64 favors nothing
    barren = next(key for key in keys if not codebook.expand(key.bind(digest), 3, MarkParams()).favored_counts().any())
    with pytest.warns(UserWarning, match="favor no class"):
        mark(model, barren)


def test_find_mark_looks_into_nested_models(key):
    outer = keras.Sequential([keras.Input((8, 8, 1)), mark(small_classifier(), key)])
    assert find_mark(outer) is not None
    assert find_mark(small_classifier()) is None


def test_logits(key):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    marked = mark(model, key, from_logits=True, tie_margin=0)
    np.testing.assert_array_equal(np.argmax(marked(X), 1), np.argmax(model(X), 1))
    assert find_mark(marked).from_logits


def head(units, activation=None):
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(units, activation=activation)], name="m"
    )


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (
            lambda: head(10),
            {},
            ModelError,
            r"no probability vectors.*say from_logits=True \(--from-l",
        ),
        (lambda: head(10, "tanh"), {}, ModelError, "no probability vectors.*last activation is tanh.*lie between -"),
        (lambda: head(10, "sigmoid"), {"activation": "softmax"}, ModelError, "contradicts the model"),
        (lambda: head(10, "softmax"), {"from_logits": True}, ModelError, "holds probabilities already"),
        (lambda: head(1, "softmax"), {}, ModelError, "the softmax of one number is always 1"),
        (lambda: head(10, "softmax"), {"budget": 0}, ArgumentError, "`budget` is the largest total variation"),
        (lambda: head(10, "softmax"), {"budget": 0.7}, ArgumentError, r"Received: budget=0\.7"),
        (lambda: "model.keras", {}, ModelError, r"`model` must be a keras\.Model\. Received: a str"),
        (lambda: keras.Sequential([keras.layers.Dense(3)], name="m"), {}, ModelError, "has no graph of layers"),
    ],
)
def test_models_that_cannot_be_marked(make, options, error, message, key):
    with pytest.raises(error, match=message):
        mark(make(), key, **options)


def test_nan_weights_are_noticed(key):
    model = head(10, "softmax")
    model.layers[-1].kernel.assign(np.full((64, 10), np.nan))
    with pytest.raises(ModelError, match="they hold NaN or infinity"):
        mark(model, key)


def test_a_marked_model_is_not_marked_again(key, other_key):
    marked = mark(small_classifier(), key)
    with pytest.raises(ModelError, match=r"is marked already.*strip it first: dm\.mark\(dm\.strip\(model\), key\)"):
        mark(marked, other_key)


def two_outputs(as_dict):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    box, label = keras.layers.Dense(3, name="box")(inputs), keras.layers.Dense(12, "softmax", name="label")(inputs)
    return keras.Model(inputs, {"label": label, "box": box} if as_dict else [box, label], name="two")


@pytest.mark.parametrize("as_dict", [True, False])
def test_one_of_several_outputs_is_marked_and_the_others_stay(as_dict, key, tmp_path):
    model = two_outputs(as_dict)
    with pytest.raises(ModelError, match=r"'two' has 2 outputs. Name the one to mark, output=NAME.*box, label"):
        mark(model, key)
    with pytest.raises(ModelError, match="has no output 'none'"):
        mark(model, key, output="none")
    marked = mark(model, key, output="label")
    marked.save(tmp_path / "two.keras")
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    for one in (marked, load_model(tmp_path / "two.keras")):
        box, label = (keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(one(x)))
        clean_box, clean_label = (keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(model(x)))
        np.testing.assert_array_equal(box, clean_box)
        assert 0 < 0.5 * np.abs(label - clean_label).sum(axis=1).max() <= 0.05 + 1e-6
        assert model_sha256(strip(one)) == model_sha256(model)
    found = resolve_owner(tmp_path / "two.keras", key)
    np.testing.assert_allclose(found.answers(x), clean_label, atol=1e-6)


def test_a_subclassed_model_is_refused_with_the_way_out(key):
    class Custom(keras.Model):
        def __init__(self):
            super().__init__(name="custom")
            self.inner = head(10, "softmax")

        def call(self, x):
            return self.inner(x)

    model = Custom()
    model(X)
    with pytest.raises(ModelError, match=r"no graph .* Wrap it: inputs = keras\.Input"):
        mark(model, key)
    inputs = keras.Input((8, 8, 1))
    np.testing.assert_array_equal(strip(mark(keras.Model(inputs, model(inputs)), key))(X), model(X))


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_few_classes_give_a_warning_with_the_limit(key, num_classes):
    expected = {2: r"10\^0\.0", 3: r"10\^-1\.8", 5: None}[num_classes]
    model = head(num_classes, "softmax")
    if expected is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            mark(model, key)
    else:
        with pytest.warns(UserWarning, match=f"With {num_classes} classes.*below {expected}"):
            mark(model, key)


def test_a_blank_mark_is_not_exported(key, tmp_path):
    from dynamarks_tf.export import export_saved_model

    with pytest.raises(ModelError, match="has blank tables.* would be served unmarked"):
        export_saved_model(keras.models.clone_model(mark(small_classifier(), key)), tmp_path / "1")


def test_strip_of_a_clean_model(key):
    with pytest.raises(ModelError, match="does not end in a DynaMarkLayer, so it cannot .* layers: flatten"):
        strip(small_classifier())


def test_load_model_says_what_is_wrong(tmp_path):
    with pytest.raises(ModelError, match="There is no Keras model file"):
        load_model(tmp_path / "none.keras")
    (tmp_path / "broken.keras").write_bytes(b"PK\x03\x04 not really a zip")
    with pytest.raises(ModelError, match=r"broken\.keras cannot be loaded as a Keras model"):
        load_model(tmp_path / "broken.keras")


class Halved(keras.Model):
    """A graph, and a call of its own around it."""

    def call(self, x, training=None, mask=None):
        return super().call(x / 2, training=training, mask=mask)


class OwnStep(keras.Model):
    def predict_step(self, data):
        return super().predict_step(data / 2)


class OwnTraining(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


class Shaken(keras.layers.Layer):
    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), 0, 100)


def graph_of(cls):
    inputs = keras.Input((8, 8, 1))
    return cls(inputs, keras.layers.Dense(10, "softmax")(keras.layers.Flatten()(inputs)), name="own")


def test_a_call_of_its_own_stays(key, tmp_path):
    with keras.utils.custom_object_scope({"Halved": Halved}):
        model = graph_of(Halved)
        marked = mark(model, key, tie_margin=0)
        moved = 0.5 * np.abs(np.asarray(marked(X)) - np.asarray(model(X))).sum(axis=1)
        assert 0 < moved.max() <= 0.05 + 1e-6
        assert strip(marked) is model
        marked.save(tmp_path / "m.keras")
        again = strip(load_model(tmp_path / "m.keras"))
    assert type(again) is Halved
    np.testing.assert_array_equal(again(X), model(X))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: graph_of(OwnStep), "predict_step"),
        (lambda: OwnTraining([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]), "train_step"),
    ],
)
def test_steps_of_its_own_are_refused(make, named, key):
    with pytest.raises(ModelError, match=rf"with {named} of its own.*dm\.mark\(keras\.Model\(model\.inputs"):
        mark(make(), key)


def test_a_model_with_random_answers_is_refused(key):
    noise = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), Shaken(), keras.layers.Dense(10, "softmax")], name="noisy"
    )
    with pytest.raises(ModelError, match="'noisy', rebuilt with a mark, answers otherwise"):
        mark(noise, key)


def test_a_collapsed_model_gives_a_warning(key):
    model = head(10, "softmax")
    model.layers[-1].kernel.assign(np.zeros((64, 10)))
    with pytest.warns(UserWarning, match="gave the same answer to all of 16 made-up inputs"):
        mark(model, key)


def test_a_mark_is_found_inside_wrappers(key, other_key):
    marked = mark(small_classifier(), key)
    inputs = keras.Input((3, 8, 8, 1))
    wrapped = keras.Model(inputs, keras.layers.TimeDistributed(marked)(inputs))
    assert find_mark(wrapped) is find_mark(marked)
    with pytest.raises(ModelError, match="is marked already"):
        mark(wrapped, other_key)
