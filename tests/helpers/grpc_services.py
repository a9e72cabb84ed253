"""Prediction services over gRPC that answer what a test wants."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Describes a model from x of shape (any, 2) to probabilities, and answers with what it is given."""

    def __init__(self, predict: Callable[[Any], Any], **dtype: int) -> None:
        self.predict = predict
        self.dtype = dtype.get("dtype", tf.float32.as_datatype_enum)

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        signatures = get_model_metadata_pb2.SignatureDefMap()
        signature = signatures.signature_def["serving_default"]
        signature.inputs["x"].dtype = self.dtype
        for size in (-1, 2):
            signature.inputs["x"].tensor_shape.dim.add(size=size)
        signature.outputs["probabilities"].dtype = tf.float32.as_datatype_enum
        signature.outputs["other"].dtype = tf.float32.as_datatype_enum
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(signatures)
        return response

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.predict((request, context))


@contextlib.contextmanager
def grpc_server(service: Any) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)])
    if service is not None:
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


def respond(values: Any) -> Callable[[Any], Any]:
    def predict(call: Any) -> Any:
        response = predict_pb2.PredictResponse()
        response.outputs["probabilities"].CopyFrom(tf.make_tensor_proto(values))
        return response

    return predict


class GuardedService(Service):
    """A service that wants a certain entry of the metadata, such as an API key."""

    def __init__(self, entry: tuple[str, str]) -> None:
        super().__init__(respond([[1.0]]))
        self.entry = entry

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.check(context)
        return super().GetModelMetadata(request, context)

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.check(context)
        return super().Predict(request, context)

    def check(self, context: Any) -> None:
        given = dict(context.invocation_metadata())
        if given.get(self.entry[0]) != self.entry[1]:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"not {given}")
