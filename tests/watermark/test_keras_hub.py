"""Classifiers of keras_hub with random weights: refused as they are, and marked as the error says."""

import re

import keras
import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf.errors import ModelError
from dynamarks_tf.watermark import marking
from dynamarks_tf.watermark.outputs import OutputKind, find_output_kind

keras_hub = pytest.importorskip("keras_hub", exc_type=ImportError)


def text_classifier():
    sizes = {"vocabulary_size": 50, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
    backbone = keras_hub.models.BertBackbone(max_sequence_length=12, **sizes)
    return keras_hub.models.BertTextClassifier(backbone=backbone, num_classes=6)


def image_classifier():
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    )
    return keras_hub.models.ResNetImageClassifier(backbone=backbone, num_classes=6)


def inputs_of(model):
    rng = np.random.default_rng(0)
    if len(model.inputs) == 1:
        return rng.uniform(0, 255, (8, 16, 16, 3)).astype("float32")
    tokens = rng.integers(1, 50, (8, 12))
    return {"token_ids": tokens, "segment_ids": 0 * tokens, "padding_mask": 0 * tokens + 1}


def softmax(outputs):
    return np.asarray(keras.ops.softmax(outputs))


@pytest.mark.parametrize("make", [text_classifier, image_classifier])
def test_a_classifier_of_keras_hub_is_marked_as_the_error_says(make, key, tmp_path):
    keras.utils.set_random_seed(0)
    model = make()
    assert find_output_kind(model) == OutputKind("softmax", from_logits=True)
    with pytest.raises(ModelError, match="of its own") as refused:
        dm.mark(model, key)
    advice = re.search(r"dm\.mark\(keras\.Model.*\)", str(refused.value)).group()
    marked = eval(advice, {"dm": dm, "keras": keras, "model": model, "key": key})
    x = inputs_of(model)
    clean, released, stripped = (np.asarray(one(x, training=False)) for one in (model, marked, dm.strip(marked)))
    moved = 0.5 * np.abs(softmax(clean) - softmax(released)).sum(axis=1)
    assert 1e-3 < moved.max() <= 0.05 + 1e-5
    np.testing.assert_allclose(stripped, clean, atol=1e-6)
    assert marking.find_mark(marked).from_logits
    dm.export_saved_model(marked, tmp_path / "served" / "1")
