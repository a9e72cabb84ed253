"""The digest of a model: the same for the same function, another for any other."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from dynamarks_tf.watermark.marking import mark, strip
from dynamarks_tf.watermark.model_digest import code_outside, model_sha256


def sequential(activation="relu", name=None):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1.0 / 255),
            layers.Conv2D(2, 3, activation=activation),
            layers.Flatten(),
            layers.Dense(5, activation="softmax"),
        ],
        name=name,
    )


def nested():
    inputs = keras.Input((8, 8, 1))
    body = sequential()
    inner_inputs = keras.Input((5,))
    head = keras.Model(inner_inputs, layers.Dense(5, activation="softmax")(inner_inputs))
    return keras.Model(inputs, head(layers.Add()([body(inputs), head(body(inputs))])))


def operations():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    shared = layers.Dense(8, activation="relu")
    x = shared(layers.Dense(1)(shared(inputs / 2.0)[:, 1:, :, ::2]))
    x = keras.ops.mean(x, axis=(1, 2)) + 1.0
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x))


def list_output():
    model = sequential()
    return keras.Model(model.inputs, [model.outputs[0]])


def dict_output():
    model = sequential()
    return keras.Model({"image": model.inputs[0]}, {"p": model.outputs[0]})


def time_distributed():
    inputs = keras.Input((3, 8, 8, 1))
    return keras.Model(inputs, layers.TimeDistributed(functional())(inputs))


def functional():
    model = sequential()
    return keras.Model(model.inputs, model.outputs[0])


def compiled():
    model = sequential()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    model.fit(np.ones((4, 8, 8, 1)), np.zeros(4), class_weight={0: 2.0}, verbose=0)
    return model


def lora():
    model = sequential()
    model.layers[-1].enable_lora(2)
    model.layers[-1].lora_kernel_b.assign(np.ones((2, 5)))
    return model


def quantized():
    model = sequential()
    model.quantize("int8")
    return model


def text(words=("a", "b")):
    keras.utils.set_random_seed(0)
    lookup = layers.TextVectorization(output_sequence_length=3)
    lookup.adapt([" ".join(words)])
    inputs = keras.Input((), dtype="string")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(5, 4)(lookup(inputs)))
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x))


def adapted():
    keras.utils.set_random_seed(0)
    normalization = layers.Normalization()
    normalization.adapt(np.arange(12.0).reshape(4, 3))
    return keras.Sequential([keras.Input((3,)), normalization, layers.Dense(5, activation="softmax")])


def with_lambda(factor=2.0):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Lambda((lambda x: x * 2.0) if factor == 2 else (lambda x: x * 3.0)),
            layers.Dense(5, activation="softmax"),
        ]
    )


@keras.saving.register_keras_serializable("tests_digest")
class Scaled(keras.Model):
    def call(self, x, training=None, mask=None):
        return super().call(x / 255.0, training=training, mask=mask)


def subclass():
    model = sequential()
    return Scaled(model.inputs[0], model.outputs[0])


class WithArguments(keras.Model):
    """A class that writes down its arguments, not its graph."""

    def __init__(self, units=5, **kwargs):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 1))
        super().__init__(inputs, layers.Dense(units, "softmax")(layers.Flatten()(inputs)), **kwargs)


class Chain(keras.Sequential):
    pass


def chain():
    keras.utils.set_random_seed(0)
    return Chain([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(5, "softmax")])


MODELS = [
    sequential,
    nested,
    operations,
    list_output,
    dict_output,
    time_distributed,
    compiled,
    lora,
    quantized,
    text,
    adapted,
    with_lambda,
    subclass,
]


@pytest.mark.parametrize("make", MODELS)
def test_a_saved_copy_has_the_same_digest(make, tmp_path):
    model = make()
    model.save(tmp_path / "m.keras")
    copy = keras.models.load_model(tmp_path / "m.keras", compile=False, safe_mode=False)
    assert model_sha256(copy) == model_sha256(model)


@pytest.mark.parametrize("make", [sequential, nested, compiled, adapted])
def test_an_h5_copy_has_the_same_digest(make, tmp_path):
    model = make()
    model.save(tmp_path / "m.h5")
    assert model_sha256(keras.models.load_model(tmp_path / "m.h5", compile=False)) == model_sha256(model)


@pytest.mark.parametrize(
    "make",
    [
        sequential,
        nested,
        operations,
        list_output,
        dict_output,
        compiled,
        lora,
        adapted,
        subclass,
        WithArguments,
        chain,
    ],
)
def test_marking_and_stripping_keeps_the_digest(make, key):
    model = make()
    marked = mark(model, key)
    assert model_sha256(marked) != model_sha256(model)
    assert model_sha256(strip(marked)) == model_sha256(model)


@pytest.mark.parametrize("make", MODELS)
def test_names_and_use_do_not_count(make):
    model = make()
    before = model_sha256(model)
    if make is not quantized:  # its weights are as they were drawn
        assert model_sha256(make()) == before
    x = tf.constant(["a b"]) if make is text else np.ones((1, *model.inputs[0].shape[1:]), "float32")
    model.run_eagerly = True  # or each traces a graph
    model.predict({"image": x} if make is dict_output else x, verbose=0)
    model.trainable = False
    assert model_sha256(model) == before


def small(
    units=4,
    activation="softmax",
    rescale=0.5,
    offset=0.0,
    strides=1,
    max_value=None,
    alpha=0.2,
    dtype="float32",
    epsilon=1e-3,
    swap=False,
    weight=0.0,
    axis=-1,
):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2), dtype=dtype)
    x = layers.Rescaling(rescale, offset)(inputs)
    x = layers.Conv2D(3, 2, strides=strides, padding="same", dtype=dtype)(x)
    x = layers.BatchNormalization(epsilon=epsilon)(x)
    x = layers.LeakyReLU(alpha)(x)
    x = layers.ReLU(max_value=max_value)(x)
    a, b = layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)
    x = layers.Concatenate()([b, a] if swap else [a, b])
    model = keras.Model(inputs, layers.Softmax(axis=axis)(layers.Dense(units, activation=activation)(x)))
    bias = model.layers[-2].bias
    bias.assign(bias + weight)
    return model


@pytest.mark.parametrize(
    "change",
    [
        {"units": 5},
        {"activation": "sigmoid"},
        {"rescale": 0.25},
        {"offset": -1.0},
        {"strides": 2},
        {"max_value": 6},
        {"max_value": False},  # clips at 0: what is dropped from the digest is False as a default only
        {"alpha": 0.3},
        {"dtype": "float16"},
        {"epsilon": 1e-5},
        {"swap": True},
        {"weight": 1e-6},
        {"axis": 0},
    ],
)
def test_another_function_has_another_digest(change):
    assert model_sha256(small(**change)) != model_sha256(small())


def test_vocabularies_and_lambdas_count():
    assert model_sha256(text(("a", "b"))) != model_sha256(text(("a", "c")))
    assert model_sha256(text(("a", "b", "b"))) != model_sha256(text(("a", "a", "b")))
    assert model_sha256(with_lambda(2)) != model_sha256(with_lambda(3))
    table = layers.StringLookup(vocabulary=["a", "b"])
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, table(inputs))
    before = model_sha256(model)
    table.set_vocabulary(["b", "a"])
    assert model_sha256(model) != before


def test_a_layer_that_is_used_twice_is_not_two_others():
    def build(shared):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4,))
        first = layers.Dense(4)
        second = first if shared else layers.Dense(4)
        return keras.Model(inputs, second(first(inputs)))

    assert model_sha256(build(True)) != model_sha256(build(False))


def test_code_that_no_file_holds_is_named():
    assert code_outside(sequential()) == ()
    assert code_outside(with_lambda()) == ()
    assert code_outside(subclass()) == (f"{__name__}.Scaled",)


def test_the_weights_count_of_a_layer_whose_configuration_names_another():
    class Renamed(keras.layers.Dense):
        def get_config(self):
            return {**super().get_config(), "name": "another"}

    inner = keras.Sequential([keras.Input((4,)), Renamed(3, activation="softmax")])
    for model in (inner, keras.Sequential([keras.Input((4,)), inner])):
        before = model_sha256(model)
        inner.layers[0].kernel.assign(inner.layers[0].kernel + 0.1)
        assert model_sha256(model) != before


def test_the_weights_of_an_owners_class_without_a_name_in_its_configuration_count():
    class Inner(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3, activation="softmax")

        def call(self, x):
            return self.dense(x)

        def get_config(self):
            return {}

    inputs = keras.Input((4,))
    for model in (keras.Model(inputs, Inner()(inputs)), keras.Sequential([keras.Input((4,)), Inner()])):
        before = model_sha256(model)
        kernel = model.layers[-1].dense.kernel
        kernel.assign(kernel + 0.1)
        assert model_sha256(model) != before
