"""A small model server over HTTP, without TensorFlow: the Open Inference Protocol to the letter, and what a client of
TensorFlow Serving's REST API needs.

Run as a program, `model_server.py PORT WEIGHTS.npz`, it serves a multi-layer perceptron as `clf`, until killed, to
whoever has the key in DYNAMARKS_API_KEY.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

Array = np.ndarray[Any, Any]

TYPES = {"FP32": "float32", "FP64": "float64", "UINT8": "uint8", "INT64": "int64", "BOOL": "bool", "BYTES": "object"}

V2_MODEL, V1_MODEL = "/v2/models/<name>", "/v1/models/<name>"
ROUTES = Map(
    [
        Rule("/v2/health/live", endpoint="live", methods=["GET"]),
        Rule("/v2/health/ready", endpoint="live", methods=["GET"]),
        *(
            Rule(V2_MODEL + version + what, endpoint=endpoint, methods=[method])
            for version in ("", "/versions/<version>")
            for what, endpoint, method in (
                ("", "metadata", "GET"),
                ("/ready", "ready", "GET"),
                ("/infer", "infer", "POST"),
            )
        ),
        Rule(V1_MODEL + "/metadata", endpoint="v1_metadata", methods=["GET"]),
        Rule(V1_MODEL + ":predict", endpoint="v1_predict", methods=["POST"]),
    ]
)


class RefusedError(Exception):
    """What the server says with an error status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ModelServer:
    """One model, `clf`, versions `v1` and `v2` (which are the same), as WSGI application.

    `outputs` says name and datatype of each output; `predict` gives an array for each name. `before`, if given, sees
    every request first and may answer it. Without `described`, the metadata is that of MLServer and KServe's Python
    server by default, and any input is taken. The last question is kept in `asked`.
    """

    def __init__(
        self,
        predict: Callable[[Array], dict[str, Array]],
        outputs: dict[str, str],
        *,
        shape: tuple[int, ...] = (-1, 8, 8, 1),
        datatype: str = "FP32",
        before: Callable[[Request], Response | None] | None = None,
        nested: bool = False,
        described: bool = True,
    ) -> None:
        self.predict, self.outputs, self.shape, self.datatype = predict, outputs, shape, datatype
        self.before, self.nested, self.described = before, nested, described
        self.questions = 0
        self.asked: Any = None

    def __call__(self, environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        return self.answer(request)(environ, start_response)

    def answer(self, request: Request) -> Response:
        early = self.before(request) if self.before else None
        if early is not None:
            return early
        try:
            endpoint, values = ROUTES.bind_to_environ(request.environ).match()
            if values.get("name", "clf") != "clf" or values.get("version", "v1") not in ("v1", "v2"):
                raise RefusedError(f"unknown model {values}", 404)
            return respond(getattr(self, endpoint)(request, values))
        except RefusedError as error:
            return respond({"error": str(error)}, error.status)
        except HTTPException as error:
            return respond({"error": str(error)}, error.code or 500)

    def live(self, request: Request, values: Any) -> Any:
        return {"live": True}

    def ready(self, request: Request, values: Any) -> Any:
        return {"name": "clf", "ready": True}

    def metadata(self, request: Request, values: Any) -> Any:
        if not self.described:
            return {"name": "clf", "versions": [], "platform": "", "inputs": [], "outputs": []}
        return {
            "name": "clf",
            "versions": ["v1", "v2"],
            "platform": "numpy",
            "inputs": [{"name": "pixels", "datatype": self.datatype, "shape": self.shape}],
            "outputs": [{"name": name, "datatype": kind, "shape": [-1, -1]} for name, kind in self.outputs.items()],
        }

    def infer(self, request: Request, values: Any) -> Any:
        try:
            asked = self.asked = json.loads(request.get_data())
            (tensor,) = asked["inputs"]
            shape, data = tensor["shape"], tensor["data"]
        except (KeyError, TypeError, ValueError) as error:
            raise RefusedError(f"no inference request: {error!r}") from error
        if self.described and (tensor["name"] != "pixels" or tensor["datatype"] != self.datatype):
            raise RefusedError(f"expected one tensor pixels of type {self.datatype}")
        fits = not self.described or (
            len(shape) == len(self.shape)
            and all(want in (-1, size) for want, size in zip(self.shape, shape, strict=False))
        )
        array = np.array(data, TYPES[tensor["datatype"]])
        if not fits or array.size != np.prod(shape, dtype=int):
            raise RefusedError(f"expected a tensor of shape {self.shape}, not {shape} of {array.size} values")
        wanted = [output["name"] for output in asked.get("outputs") or [{"name": name} for name in self.outputs]]
        if not set(wanted) <= set(self.outputs):
            raise RefusedError(f"there are no outputs {wanted}")
        self.questions += 1
        answers = self.predict(array.reshape(shape))
        return {
            "model_name": "clf",
            "model_version": values.get("version", "v2"),
            **({"id": asked["id"]} if "id" in asked else {}),
            "outputs": [
                {
                    "name": name,
                    "shape": answers[name].shape,
                    "datatype": self.outputs[name],
                    "data": (answers[name] if self.nested else answers[name].ravel()).tolist(),
                }
                for name in wanted
            ],
        }

    def v1_metadata(self, request: Request, values: Any) -> Any:
        shape = {"dim": [{"size": str(size)} for size in self.shape], "unknown_rank": False}
        signature = {
            "inputs": {"pixels": {"dtype": "DT_FLOAT", "tensor_shape": shape}},
            "outputs": {"probabilities": {}},
        }
        return {"metadata": {"signature_def": {"signature_def": {"serving_default": signature}}}}

    def v1_predict(self, request: Request, values: Any) -> Any:
        self.questions += 1
        pixels = np.array(json.loads(request.get_data())["inputs"]["pixels"], np.float32)
        return {"outputs": self.predict(pixels)["probabilities"].tolist()}


def respond(content: Any, status: int = 200, **headers: str) -> Response:
    return Response(json.dumps(content), status, headers, mimetype="application/json")


@contextlib.contextmanager
def serving(application: Any, port: int = 0) -> Iterator[str]:
    """Serves on a loopback port; yields `http://127.0.0.1:port`."""
    server = make_server("127.0.0.1", port, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def perceptron(weights: list[Array]) -> Callable[[Array], dict[str, Array]]:
    """Layers of tanh and a softmax, from kernels and biases in turn."""

    def predict(images: Array) -> dict[str, Array]:
        x = images.reshape(len(images), -1)
        for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
            x = np.tanh(x @ kernel + bias)
        powers = np.exp(x @ weights[-2] + weights[-1])
        return {"probabilities": powers / powers.sum(axis=1, keepdims=True)}

    return predict


if __name__ == "__main__":
    with np.load(sys.argv[2]) as content:
        model = perceptron([content[name] for name in content.files])
    wanted = f"Bearer {os.environ['DYNAMARKS_API_KEY']}"

    def check(request: Request) -> Response | None:
        return None if request.headers.get("Authorization") == wanted else respond({"error": "no key"}, 401)

    with serving(ModelServer(model, {"probabilities": "FP32"}, before=check), int(sys.argv[1])) as url:
        print(url, flush=True)
        threading.Event().wait()
