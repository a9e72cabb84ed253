"""The calls that clients make, the same for gRPC and REST: a request message in, an answer or a StatusError out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
)

from dynamarks_tf.serving.local_server import config_files
from dynamarks_tf.serving.local_server.repository import Repository
from dynamarks_tf.serving.local_server.served_model import ServedModel
from dynamarks_tf.serving.protocol.status import Code, StatusError, invalid
from dynamarks_tf.serving.protocol.tensors import DEFAULT_SIGNATURE, Array, to_packed_proto, to_proto

SIGNATURE_FIELD = "signature_def"
ONLY_PREDICT = "Classify, Regress and MultiInference are not served here. Use Predict instead."


@dataclass(frozen=True)
class Answer:
    """The result of Predict.

    Attributes:
        model_spec: the model name, version and signature that were used.
        outputs: the outputs by name.
        runtime_s: seconds the model took.
    """

    model_spec: model_pb2.ModelSpec
    outputs: dict[str, Array]
    runtime_s: float

    def to_response(self) -> predict_pb2.PredictResponse:
        """Returns the answer as TensorFlow Serving's message."""
        outputs = {name: to_proto(array) for name, array in self.outputs.items()}
        return predict_pb2.PredictResponse(model_spec=self.model_spec, outputs=outputs)

    def to_packed_response(self) -> predict_pb2.PredictResponse:
        """Returns the same message with its values in blocks of bytes, which is faster; for logs, not for clients."""
        outputs = {name: to_packed_proto(array) for name, array in self.outputs.items()}
        return predict_pb2.PredictResponse(model_spec=self.model_spec, outputs=outputs)


def predict(repository: Repository, request: predict_pb2.PredictRequest, *, timeout_s: float | None = None) -> Answer:
    """Runs a model on the inputs of `request`, for at most `timeout_s` seconds."""
    _check_has_spec(request)
    with repository.use(request.model_spec) as model:
        return run(model, request, timeout_s=timeout_s)


def run(model: ServedModel, request: predict_pb2.PredictRequest, *, timeout_s: float | None = None) -> Answer:
    """Runs a model that has been found already on the inputs of `request`, for at most `timeout_s` seconds."""
    signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    began = time.perf_counter()
    outputs = model.predict(
        request.inputs, signature_name=signature_name, output_filter=request.output_filter, timeout_s=timeout_s
    )
    return Answer(_used(model, request.model_spec), outputs, time.perf_counter() - began)


def model_metadata(
    repository: Repository, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Returns the signatures of a model."""
    _check_has_spec(request)
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != SIGNATURE_FIELD:
            raise invalid(f"Metadata field {field} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with repository.use(request.model_spec) as model:
        signatures = get_model_metadata_pb2.SignatureDefMap(
            signature_def={name: signature.definition for name, signature in model.signatures.items()}
        )
        response.model_spec.name = model.name
        response.model_spec.version.value = model.version
    response.metadata[SIGNATURE_FIELD].Pack(signatures)
    return response


def model_status(
    repository: Repository, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """Returns the state of one version of a model, or of all of them. A label is ignored, as in TensorFlow Serving."""
    _check_has_spec(request)
    spec = request.model_spec
    versions = repository.versions(spec.name)
    if spec.HasField("version"):
        versions = [version for version in versions if version.number == spec.version.value]
        if not versions:
            raise StatusError(Code.NOT_FOUND, f"Could not find version {spec.version.value} of model {spec.name}")
    if not versions:
        raise StatusError(Code.NOT_FOUND, f"Could not find any versions of model {spec.name}")
    response = get_model_status_pb2.GetModelStatusResponse()
    for version in versions:
        status = response.model_version_status.add(version=version.number, state=version.state).status
        status.SetInParent()
        if version.error is not None:
            status.error_code = version.error.code
            status.error_message = version.error.message
    return response


def reload_config(
    repository: Repository, request: model_management_pb2.ReloadConfigRequest
) -> model_management_pb2.ReloadConfigResponse:
    """Serves the models of another configuration from now on; returns once they are loaded."""
    if request.config.WhichOneof("config") != "model_config_list":
        raise invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
            "supported"
        )
    repository.reconfigure(config_files.check_models(request.config))
    response = model_management_pb2.ReloadConfigResponse()
    response.status.SetInParent()
    return response


def _used(model: ServedModel, requested: model_pb2.ModelSpec) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=model.name, signature_name=requested.signature_name or DEFAULT_SIGNATURE)
    spec.version.value = model.version
    return spec


def _check_has_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
