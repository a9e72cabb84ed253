"""`tf-serving`, a third-party client of TensorFlow Serving, which sends images and reads words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import tensorflow as tf
import tf.serving as tf_serving

from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.tiny_models import signature, spec

WORDS = ["pawn", "queen"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """Accepts images as URL-safe base64, as that client sends them, and answers whether they are bright."""
    base = tmp_path_factory.mktemp("models") / "ocr"

    def read(images: Any) -> dict[str, Any]:
        decoded = tf.map_fn(
            lambda image: tf.io.decode_image(tf.io.decode_base64(image), channels=1, expand_animations=False),
            images,
            fn_output_signature=tf.TensorSpec((8, 8, 1), tf.uint8),
        )
        bright = tf.reduce_mean(tf.cast(decoded, tf.float32), axis=(1, 2, 3)) / 255
        chances = tf.stack([1 - bright, bright], axis=1)
        order = tf.argsort(chances, direction="DESCENDING")
        preds = tf.gather(tf.constant(WORDS), order)
        return {"preds": preds, "logprobs": tf.math.log(tf.gather(chances, order, batch_dims=1))}

    tf.saved_model.save(
        tf.Module(), str(base / "1"), signatures={"serving_default": signature(read, images=spec(tf.string))}
    )
    with LocalServer(base, grpc_port=None, rest_port=0) as running:
        yield running


def image(brightness: int) -> str:
    png = tf.io.encode_png(tf.fill((8, 8, 1), tf.constant(brightness, tf.uint8))).numpy()
    return str(tf_serving.encode64(png))


def predict(server: LocalServer, images: list[str], **options: Any) -> Any:
    return asyncio.run(tf_serving.predict(images, host="http://127.0.0.1", port=server.rest_port, **options))


def test_the_client_gets_its_answers(server: LocalServer) -> None:
    answers = predict(server, [image(51), image(204)]).unsafe()
    assert [answer.preds for answer in answers] == [["pawn", "queen"], ["queen", "pawn"]]
    for answer in answers:
        assert answer.logprobs == pytest.approx([-0.2231436, -1.6094379])
    endpoint = "/v1/models/ocr/versions/1:predict"
    assert predict(server, [image(51)], endpoint=endpoint).unsafe()[0].preds == ["pawn", "queen"]


@pytest.mark.parametrize(
    ("images", "endpoint", "message"),
    [
        ([], "/v1/models/ocr:predict", "No values in 'instances' array"),
        (["AAAA"], "/v1/models/ocr:predict", "Unknown image file format"),
        (["AAAA"], "/v1/models/other:predict", "Servable not found for request: Latest(other)"),
        (["AAAA"], "/v1/models/ocr/labels/stable:predict", "Unrecognized servable version label: stable"),
    ],
)
def test_the_client_understands_errors(server: LocalServer, images: list[str], endpoint: str, message: str) -> None:
    error = predict(server, images, endpoint=endpoint).value
    assert error.tag == "tfserving-error"
    assert message in error.error
