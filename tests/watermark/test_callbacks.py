"""What the mark costs, as `fit` shows it: clean against marked accuracy, and total variation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import dynamarks_tf as dm
from dynamarks_tf.errors import ArgumentError, ModelError
from dynamarks_tf.watermark.metrics import mark_cost
from tests.helpers import small_classifier


@pytest.fixture(scope="module")
def marked(owner_model, key):
    return dm.mark(owner_model, key, budget=0.1)


@pytest.fixture(scope="module")
def expected(marked, owner_model, digits):
    clean, released = (model.predict(digits.x_test, verbose=0) for model in (owner_model, marked))
    return mark_cost(clean, released, digits.y_test).to_dict()


def one_hot(labels):
    return keras.utils.to_categorical(labels, 10)


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, y),
        lambda x, y: (x, one_hot(y)),
        lambda x, y: (x, y[:, None]),
        lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(100),
        lambda x, y: tf.data.Dataset.from_tensor_slices((x, one_hot(y), np.ones(len(x)))).batch(100),
    ],
    ids=["arrays", "one-hot", "column", "dataset", "dataset with weights"],
)
def test_the_cost_is_that_of_clean_and_marked_answers(marked, expected, digits, form):
    cost = dm.measure_cost(marked, form(digits.x_test, digits.y_test), batch_size=100)
    assert cost.to_dict() == pytest.approx(expected, abs=1e-6)
    assert 0 < cost.mean_total_variation < cost.max_total_variation <= 0.1 + 1e-6


def test_models_that_answer_logits(digits, key):
    model = keras.Sequential([*small_classifier().layers[:-1], keras.layers.Dense(10)])
    model.build((None, 8, 8, 1))
    logits = dm.mark(model, key, from_logits=True)
    cost = dm.measure_cost(logits, (digits.x_test, digits.y_test))
    assert 0 < cost.max_total_variation <= 0.05 + 1e-6


def test_fit_shows_what_the_mark_costs(digits, key, capsys):
    model = small_classifier()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    marked = dm.mark(model, key, budget=0.5, tie_margin=2.0)  # so much that accuracy suffers
    held_out = digits.x_test, digits.y_test
    report = dm.MarkReport(held_out)
    fitted = marked.fit(
        digits.x_train, digits.y_train, validation_data=held_out, epochs=2, callbacks=[report], verbose=2
    )
    assert "val_total_variation: 0." in capsys.readouterr().out
    history = fitted.history
    assert history["val_marked_accuracy"] == pytest.approx(history["val_accuracy"])
    assert history["val_clean_accuracy"][1] > history["val_marked_accuracy"][1]
    assert history["val_clean_accuracy"][1] > history["val_clean_accuracy"][0]
    assert report.cost == dm.measure_cost(marked, held_out)
    assert all(0 < value <= 0.5 for value in history["val_total_variation"])


def test_a_model_without_a_mark_is_refused_before_it_is_trained(owner_model, digits):
    report = dm.MarkReport((digits.x_test, digits.y_test))
    with pytest.raises(ModelError, match="does not end in a DynaMarkLayer"):
        owner_model.fit(digits.x_test, digits.y_test, callbacks=[report], verbose=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "Received: a int"),
        ([], "holds no inputs"),
        ((np.zeros((0, 8, 8, 1)), np.zeros(0)), "holds no inputs"),
        (tf.data.Dataset.from_tensor_slices(np.zeros((2, 8, 8, 1))).batch(2), "Received: batches of"),
    ],
    ids=["number", "nothing", "no rows", "no labels"],
)
def test_validation_data_of_another_form_is_refused(marked, data, message):
    with pytest.raises(ArgumentError, match=message):
        dm.measure_cost(marked, data)


def test_the_summary_of_a_marked_model_has_one_more_line(marked, owner_model):
    lines = []
    marked.summary(print_fn=lines.append, line_length=80)
    (line,) = [line for line in "\n".join(lines).splitlines() if "DynaMarkLayer" in line]
    assert "dynamark (DynaMarkLayer)" in line
    trainable = sum(int(np.prod(weight.shape)) for weight in owner_model.trainable_weights)
    assert f"Trainable params: {trainable:,}" in "\n".join(lines)
