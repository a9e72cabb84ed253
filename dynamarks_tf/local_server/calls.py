"""The calls a client can make, the same for gRPC and REST: a request message in, an answer or a StatusError out."""

from __future__ import annotations

from dataclasses import dataclass

from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from dynamarks_tf.local_server.repository import Repository
from dynamarks_tf.local_server.served_model import DEFAULT_SIGNATURE, Signature
from dynamarks_tf.local_server.status import Code, StatusError, invalid
from dynamarks_tf.local_server.tensors import Array, to_packed_proto, to_proto

SIGNATURE_FIELD = "signature_def"
NOT_SERVED = "The local server answers Predict only. Use TensorFlow Serving for"


@dataclass(frozen=True)
class Answer:
    """What Predict gives back.

    Attributes:
        model_spec: the model name, version and signature that were used.
        outputs: the outputs by name.
    """

    model_spec: model_pb2.ModelSpec
    outputs: dict[str, Array]

    def to_response(self) -> predict_pb2.PredictResponse:
        """Returns the answer as TensorFlow Serving's message."""
        outputs = {name: to_proto(array) for name, array in self.outputs.items()}
        return predict_pb2.PredictResponse(model_spec=self.model_spec, outputs=outputs)

    def to_packed_response(self) -> predict_pb2.PredictResponse:
        """Returns the same with the values in blocks of bytes, which is quicker; for logs, not for clients."""
        outputs = {name: to_packed_proto(array) for name, array in self.outputs.items()}
        return predict_pb2.PredictResponse(model_spec=self.model_spec, outputs=outputs)


def predict(repository: Repository, request: predict_pb2.PredictRequest, *, timeout_s: float | None = None) -> Answer:
    """Runs a model on the inputs of `request`, for at most `timeout_s` seconds."""
    _check_has_spec(request)
    model = repository.find(request.model_spec)
    signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    outputs = model.predict(
        request.inputs, signature_name=signature_name, output_filter=request.output_filter, timeout_s=timeout_s
    )
    spec = model_pb2.ModelSpec(name=model.name, signature_name=signature_name)
    spec.version.value = model.version
    return Answer(spec, outputs)


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
    model = repository.find(request.model_spec)
    signatures = get_model_metadata_pb2.SignatureDefMap(
        signature_def={name: signature.definition for name, signature in model.signatures.items()}
    )
    response = get_model_metadata_pb2.GetModelMetadataResponse()
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
    states = repository.states(spec.name)
    if spec.HasField("version"):
        version = spec.version.value
        if version not in states:
            raise StatusError(Code.NOT_FOUND, f"Could not find version {version} of model {spec.name}")
        states = {version: states[version]}
    if not states:
        raise StatusError(Code.NOT_FOUND, f"Could not find any versions of model {spec.name}")
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state in states.items():
        response.model_version_status.add(version=version, state=state).status.SetInParent()
    return response


def refuse_examples(repository: Repository, spec: model_pb2.ModelSpec, method: str) -> StatusError:
    """Returns the error for Classify and Regress: that of TensorFlow Serving if the signature does not fit them.

    Args:
        repository: what is served.
        spec: the model, version and signature asked for.
        method: "classify" or "regress".

    Raises:
        StatusError: there is no such model.
    """
    name = spec.signature_name or DEFAULT_SIGNATURE
    signature = repository.find(spec).signatures.get(name)
    if signature is None:
        return invalid(f"No signature was found with the name: {name}")
    return _example_problem(signature) or StatusError(Code.UNIMPLEMENTED, f"{NOT_SERVED} {method}.")


def _example_problem(signature: Signature) -> StatusError | None:
    if len(signature.definition.inputs) != 1:
        return invalid("Expected one input Tensor.")
    if "inputs" not in signature.definition.inputs:
        return invalid(f'No input "inputs" for serialized examples found in SignatureDef: {signature.definition}')
    return None


def _check_has_spec(
    request: predict_pb2.PredictRequest
    | get_model_metadata_pb2.GetModelMetadataRequest
    | get_model_status_pb2.GetModelStatusRequest,
) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
