"""A model behind TensorFlow Serving's gRPC API as a suspect."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from dynamarks_tf._support import tensor_proto
from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.addresses import is_loopback
from dynamarks_tf.suspects.answer_sizes import MOST_VALUES, largest_answer
from dynamarks_tf.suspects.api_key import ApiKey, hide
from dynamarks_tf.suspects.batches import brief, closed, refusal, unreadable
from dynamarks_tf.suspects.json_client import CREDENTIALS
from dynamarks_tf.suspects.remote_errors import remote_errors
from dynamarks_tf.suspects.signature import SuspectSignature, choose_name, choose_signature, numpy_type

Array = npt.NDArray[Any]

_LARGEST_MESSAGE = 2**31 - 1  # bytes that are sent; the default of gRPC clients is 4 MiB

_ADVICE = {
    "UNAVAILABLE": "Is the server running, and is this its gRPC port (8500 by default)?",
    "DEADLINE_EXCEEDED": "Raise timeout_s, or send smaller batches.",
    "NOT_FOUND": "Check the name of the model, and the version if one was given.",
    "UNIMPLEMENTED": "This server does not speak the PredictionService of TensorFlow Serving.",
    "RESOURCE_EXHAUSTED": "Send smaller batches, fewer queries a second, or try later.",
    "UNAUTHENTICATED": CREDENTIALS,
    "PERMISSION_DENIED": CREDENTIALS,
}


class GrpcSuspect:
    """A model served over gRPC by TensorFlow Serving, or by anything that speaks its PredictionService.

    The constructor asks the server for the signature, so a wrong address or name fails at once.

    Args:
        host: name or number of the server.
        port: its gRPC port, normally 8500.
        name: name of the model.
        version: version number; `None` for the highest.
        secure: whether to connect by TLS. Certificates are checked against gRPC's own list of authorities, or the list
            in the file that the variable GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.
        signature: name of the signature to call. By default `serving_default`, otherwise the only one.
        output: name of the output to read. By default the one called `probabilities`, otherwise the only one.
        timeout_s: seconds that one call may take, including the connection and retries.
        api_key: the key that the server requires of clients, if any.
        most_values: how many numbers the answer to one batch may hold.

    Raises:
        SuspectError: the server cannot be reached in time, or has no such model, signature or output.

    Example:
        >>> GrpcSuspect("localhost", 8500, "clf").predict(images).shape
        (256, 10)
    """

    @remote_errors
    def __init__(
        self,
        host: str,
        port: int,
        name: str,
        version: int | None = None,
        *,
        secure: bool = False,
        signature: str | None = None,
        output: str | None = None,
        timeout_s: float = 30.0,
        api_key: ApiKey | None = None,
        most_values: int = MOST_VALUES,
    ) -> None:
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        from dynamarks_tf.suspects.retries import grpc_options

        server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        scheme = "grpcs" if secure else "grpc"
        self.description = f"{scheme}://{server}/{name}" + (f"/versions/{version}" if version is not None else "")
        self._name, self._version = name, version
        self._timeout_s = timeout_s
        self._most_values = most_values
        self._api_key = api_key
        if api_key is not None:
            api_key.check_is_private(scheme, host, self.description)
        options = [
            *grpc_options("tensorflow.serving.PredictionService", "Predict"),
            ("grpc.max_send_message_length", _LARGEST_MESSAGE),
            ("grpc.max_receive_message_length", largest_answer(most_values)),  # also once it is unpacked
            ("grpc.enable_http_proxy", int(not is_loopback(host))),
        ]
        self._channel = (
            grpc.secure_channel(server, grpc.ssl_channel_credentials(), options=options)
            if secure
            else grpc.insecure_channel(server, options=options)
        )
        self._service = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        try:
            self._signature_name, self._signature = self._learn_signature(signature, output)
        except BaseException:
            self.close()
            raise
        self.input_shape = self._signature.shape

    @remote_errors
    def predict(self, batch: Array) -> Array:
        """Answers one batch with one call."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        array = self._signature.fit(batch)
        request = predict_pb2.PredictRequest(output_filter=[self._signature.output])
        self._address(request.model_spec)
        request.model_spec.signature_name = self._signature_name
        request.inputs[self._signature.input].CopyFrom(tf.make_tensor_proto(array))
        response = self._call(self._service.Predict, request, array)
        try:
            return tensor_proto.read(response.outputs[self._signature.output], self._most_values)
        except ValueError as error:
            raise unreadable(self.description, error) from error

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _learn_signature(self, name: str | None, output: str | None) -> tuple[str, SuspectSignature]:
        from google.protobuf.message import DecodeError
        from tensorflow.core.framework import types_pb2
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._address(request.model_spec)
        response = self._call(self._service.GetModelMetadata, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        try:
            response.metadata["signature_def"].Unpack(signatures)
            name = choose_name(self.description, signatures.signature_def, name)
            definition = signatures.signature_def[name]
            inputs = {
                alias: (_shape(info.tensor_shape), numpy_type(types_pb2.DataType.Name(info.dtype), self.description))
                for alias, info in definition.inputs.items()
            }
        except (DecodeError, ValueError) as error:
            raise unreadable(self.description, error) from error
        return name, choose_signature(self.description, inputs, definition.outputs, output)

    def _address(self, model_spec: Any) -> None:
        model_spec.name = self._name
        if self._version is not None:
            model_spec.version.value = self._version

    def _call(self, method: Any, request: Any, batch: Array | None = None) -> Any:
        import grpc

        try:
            return method(request, timeout=self._timeout_s, metadata=self._metadata())
        except ValueError as error:  # grpc reports a closed channel this way
            raise closed(self.description) from error
        except grpc.RpcError as error:
            details = hide(error.details() or "no details", self._api_key)
            raise self._explain(error.code().name, brief(details), batch) from error

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        if self._api_key is None:
            return ()
        name, value = self._api_key.entry()
        return ((name.lower(), value),)

    def _explain(self, code: str, details: str, batch: Array | None) -> SuspectError:
        if code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION") and batch is not None:
            return refusal(self.description, batch, details)
        problem = {
            "UNAVAILABLE": "cannot be reached",
            "DEADLINE_EXCEEDED": f"did not answer within {self._timeout_s:g} s",
            "NOT_FOUND": "does not exist",
        }.get(code, "could not be queried")
        return SuspectError(f"{self.description} {problem} ({code}: {details}). {_ADVICE.get(code, '')}".rstrip())


def _shape(shape: Any) -> tuple[int | None, ...] | None:
    return None if shape.unknown_rank else tuple(axis.size if axis.size >= 0 else None for axis in shape.dim)
