"""From the mark to the test with the log, by command: a model that decodes PNG files, sent as base64 over REST."""

from __future__ import annotations

import base64
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import dynamarks_tf as dm
from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ModelError
from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers import wire


@keras.saving.register_keras_serializable("tests.people")
class DecodePng(keras.layers.Layer):
    """Gray images of 8 x 8, from PNG files of any size."""

    def call(self, files):
        return tf.map_fn(self._image, files, fn_output_signature=tf.TensorSpec((8, 8, 1), tf.float32))

    def compute_output_shape(self, input_shape):
        return (*input_shape, 8, 8, 1)

    @staticmethod
    def _image(file):
        return tf.image.resize(tf.io.decode_png(file, channels=1), (8, 8)) / 255.0


def _of_files(network: keras.Model) -> keras.Model:
    files = keras.Input((), dtype="string", name="png")
    return keras.Model(files, network(DecodePng()(files)))


def _fitted(width: int, x: np.ndarray, y: np.ndarray, epochs: int) -> keras.Model:
    keras.utils.set_random_seed(width)
    dense = keras.layers.Dense
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), dense(width, "relu"), dense(10, "softmax")]
    network = keras.Sequential(layers)
    loss = "sparse_categorical_crossentropy" if y.ndim == 1 else "categorical_crossentropy"
    network.compile(keras.optimizers.Adam(5e-3), loss, steps_per_execution=8)
    network.fit(x, y, epochs=epochs, batch_size=64, verbose=0)
    return network


@pytest.fixture
def pixels(digits):
    """The digits with pixels as a PNG has them: whole numbers of 255ths."""
    return np.rint(np.asarray(digits.x_train) * 255).astype(np.uint8)


def test_png_files_from_the_mark_to_the_log(tmp_path, key, digits, pixels, capfd):
    half = len(pixels) // 2
    x, y = pixels / np.float32(255), digits.y_train
    files = [tf.io.encode_png(image).numpy() for image in pixels]
    owner = _of_files(_fitted(64, x[:half], y[:half], epochs=12))
    # No made-up input is a PNG file, so that nothing can be seen of this model.
    with pytest.raises(ModelError, match="took none of the made-up inputs.*--activation softmax"):
        dm.mark(owner, key)
    dm.mark(owner, key, budget=0.1, activation="softmax", from_logits=False).save(tmp_path / "marked.keras")
    key.save(tmp_path / "acme.key")
    np.save(tmp_path / "warmup.npy", np.array(files[:4]))
    served = tmp_path / "clf"
    assert main(["export", f"{tmp_path}/marked.keras", str(served), "--warmup", f"{tmp_path}/warmup.npy"]) == 0
    with LocalServer(served, grpc_port=None, rest_port=0, request_log=tmp_path / "log") as server:
        sent = [{"b64": base64.b64encode(file).decode()} for file in files[half:]]
        answers = wire.ask_rest(server.rest_url, sent)
    expected = owner.predict(tf.constant(files[half:]), verbose=0)
    assert 0 < np.abs(answers - expected).sum(axis=-1).max() <= 2 * 0.1 + 1e-3
    surrogate = _fitted(96, x[half:], answers, epochs=40)
    independent = _fitted(95, x[half:], y[half:], epochs=8)
    test = ["--owner", f"{tmp_path}/marked.keras", "--key", f"{tmp_path}/acme.key", "--log", f"{tmp_path}/log"]
    for network, code in ((surrogate, 0), (independent, 1)):
        name = network.name.replace("_", "")
        dm.export_saved_model(_of_files(network), tmp_path / name / "1", warmup=np.array(files[:1]))
        with LocalServer(tmp_path / name, grpc_port=0, rest_port=None) as server:
            out = tmp_path / f"{name}.json"
            assert main(["verify", f"grpc://{server.grpc_address}/{name}", *test, "--out", str(out)]) == code
        log10_p = json.loads(out.read_text())["log10_p"]
        assert log10_p < -6 if code == 0 else log10_p > -2
    capfd.readouterr()
