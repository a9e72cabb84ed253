"""Operations that have a faster form of their own for one backend give what the plain ones give."""

import keras
import numpy as np
import pytest

from dynamarks_tf.watermark import ops

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="they are TensorFlow's forms")


def plain(p):
    """The first largest, and the first largest of the others."""
    top = p.argmax(axis=-1)
    others = p.copy()
    np.put_along_axis(others, top[..., None], -1, axis=-1)
    classes = np.stack([top, others.argmax(axis=-1)], axis=-1)
    return np.take_along_axis(p, classes, axis=-1), classes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_classes", [4, 256, 257, 1000, 1009])  # 257 and 1009 are primes
def test_the_two_largest_are_the_first_ones_among_equals(num_classes, dtype):
    rng = np.random.default_rng(0)
    p = rng.random((300, num_classes))
    p[:100] = np.round(p[:100], 1)  # many are equal
    p[100:200] *= rng.random((100, num_classes)) < 3 / num_classes  # most are 0
    p[200] = 0
    p[201] = 1 / num_classes
    p[202] = 0
    p[202, -1] = 1
    p = p.astype(dtype)
    for shape in ((300, num_classes), (3, 100, num_classes)):
        found = ops.two_largest(keras.ops.convert_to_tensor(p.reshape(shape)))
        for each, expected in zip(found, plain(p.reshape(shape)), strict=True):
            np.testing.assert_array_equal(each, expected)


def test_the_two_largest_of_no_row():
    values, classes = ops.two_largest(keras.ops.zeros((0, 300)))
    assert values.shape == classes.shape == (0, 2)


@pytest.mark.parametrize("shape", [(6, 40), (2, 3, 40)])
def test_amounts_are_added_to_their_classes_alone(shape):
    rng = np.random.default_rng(1)
    values, amounts = rng.random(shape).astype("float32"), rng.random((*shape[:-1], 2)).astype("float32")
    classes = np.argsort(rng.random(shape), axis=-1)[..., :2].astype("int32")
    expected = values.copy()
    np.put_along_axis(expected, classes, np.take_along_axis(values, classes, axis=-1) + amounts, axis=-1)
    np.testing.assert_array_equal(
        ops.add_at(values=keras.ops.convert_to_tensor(values), classes=classes, amounts=amounts), expected
    )
