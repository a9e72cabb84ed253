"""Predictions over REST become log entries, however late the server answers about its signatures."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dynamarks_tf.serving.gateway import rest_prediction
from dynamarks_tf.serving.gateway.rest_prediction import RestDecoder, RestPrediction

SIGNATURE = {side: {side: {"dtype": "DT_FLOAT", "tensor_shape": {}}} for side in ("inputs", "outputs")}
METADATA = {
    "model_spec": {"version": "3"},
    "metadata": {"signature_def": {"signature_def": {"serving_default": SIGNATURE}}},
}


@pytest.fixture
def hanging() -> Iterator[str]:
    """A server that answers once, and then no more."""
    asked, done = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if asked.is_set():
                done.wait(60)
            asked.set()
            body = json.dumps(METADATA).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    done.set()
    server.shutdown()
    server.server_close()


def test_a_server_that_hangs_does_not_hold_up_what_follows(hanging: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_prediction, "REFRESH_S", 0.0)
    decoder = RestDecoder(hanging)
    prediction = RestPrediction("/v1/models/m:predict", b'{"instances": [[1, 2]]}', b'{"predictions": [[1]]}', None, 0)
    first = decoder.encode(prediction)
    began = time.monotonic()
    assert {decoder.encode(prediction) for _ in range(20)} == {first}
    assert time.monotonic() - began < rest_prediction.TIMEOUT_S
