"""From an object, a path or an address to the adapter that asks the suspect behind it."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any

from dynamarks_tf.errors import ArgumentError, SuspectError
from dynamarks_tf.suspects.addresses import GRPC_FORM, REST_FORM, V2_FORM, is_v2, parse_grpc, without_password
from dynamarks_tf.suspects.answer_file import READERS, AnswerFileSuspect
from dynamarks_tf.suspects.answer_sizes import MOST_VALUES
from dynamarks_tf.suspects.api_key import ApiKey
from dynamarks_tf.suspects.base import Suspect
from dynamarks_tf.suspects.estimator import EstimatorSuspect, is_estimator
from dynamarks_tf.suspects.function import FunctionSuspect
from dynamarks_tf.suspects.isolated import KINDS, IsolatedSuspect
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.suspects.open_inference import OpenInferenceSuspect
from dynamarks_tf.suspects.queries import QuerySource
from dynamarks_tf.suspects.saved_model import highest_version
from dynamarks_tf.suspects.tf_serving_grpc import GrpcSuspect
from dynamarks_tf.suspects.tf_serving_rest import RestSuspect
from dynamarks_tf.suspects.torch_module import TorchSuspect, is_torch_module

ACCEPTED = (
    "a Keras model, a function from a batch to probabilities, a PyTorch module, a fitted scikit-learn classifier, a "
    "path (.keras, .h5, .tflite or .onnx file, SavedModel folder; a file of answers: .npz, .csv, .parquet or .jsonl), "
    f"or a URL ({GRPC_FORM}; {REST_FORM}; {V2_FORM})"
)
_CHOICES = {"keras": "", "saved_model": "signature output", "tflite": "signature output", "onnx": "output"}


def as_suspect(
    suspect: Any,
    *,
    signature: str | None = None,
    output: str | None = None,
    input: str | None = None,
    datatype: str | None = None,
    timeout_s: float = 30.0,
    api_key_header: str | None = None,
    queries: QuerySource | None = None,
    most_values: int = MOST_VALUES,
    run_untrusted_code: bool = False,
) -> Suspect:
    """Returns the adapter for a suspect.

    Requests to a served model carry the key in the variable DYNAMARKS_API_KEY, if that is set.

    Args:
        suspect: a Keras model, a PyTorch module, a fitted scikit-learn classifier, a callable on a batch, the path of a
            `.keras`, `.h5`, `.tflite` or `.onnx` file, of a SavedModel folder or of a file of answers, the URL of
            a served model, or a `Suspect`, which is returned as it is.
        signature: name of the signature to call, of a SavedModel, TFLite file or model on TensorFlow Serving. By
            default `serving_default`, otherwise the only one.
        output: name of the output to read, of a model that names its outputs. By default `probabilities`, otherwise the
            only one.
        input: name of the input, of a model behind the Open Inference Protocol whose server does not describe it.
        datatype: type of that input in the protocol, such as `"FP32"`.
        timeout_s: seconds that a server may take for one answer. A model file may take ten times as long, and as long
            to load.
        api_key_header: name of the header that carries the key; by default it is sent as `Authorization: Bearer KEY`.
        queries: the inputs to which a file of answers without digests holds the answers.
        most_values: how many numbers a server or model file may answer one batch with.
        run_untrusted_code: whether a model file may hold more than layers and arithmetic: `Lambda` layers, operators
            that read files or that are not known. It runs in a process of its own all the same.

    Returns:
        The suspect, ready to be asked.

    Raises:
        ArgumentError: `suspect` is none of these, a URL has another form, or an option does not go with the suspect.
        SuspectError: there is no such file, or it cannot be loaded; the server cannot be reached or does not know the
            model.

    Example:
        >>> as_suspect("grpc://localhost:8500/clf").predict(images).shape
        (256, 10)
    """
    options = {
        "signature": signature,
        "output": output,
        "input": input,
        "datatype": datatype,
        "api_key_header": api_key_header,
        "run_untrusted_code": run_untrusted_code or None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(suspect, (str, os.PathLike)):
        text = os.fspath(suspect)
        if "://" in text:
            return _at_address(text, given, timeout_s, most_values)
        return _at_path(Path(text), given, timeout_s, queries, most_values)
    _check(given, "", _name(suspect))
    if _is_keras_model(suspect):
        return KerasSuspect(suspect)
    if inspect.isclass(suspect):
        raise ArgumentError(f"{_name(suspect)} is not a suspect; accepted: {ACCEPTED}.")
    if isinstance(suspect, Suspect):
        return suspect
    if is_torch_module(suspect):
        return TorchSuspect(suspect)
    if is_estimator(suspect):
        return EstimatorSuspect(suspect)
    if callable(suspect):
        return FunctionSuspect(suspect)
    raise ArgumentError(f"{_name(suspect)} is not a suspect; accepted: {ACCEPTED}.")


def _at_address(url: str, given: dict[str, Any], timeout_s: float, most_values: int) -> Suspect:
    scheme = url.partition("://")[0].strip()
    suspect = without_password(url)
    if scheme not in ("grpc", "grpcs", "http", "https"):
        raise ArgumentError(f"{suspect!r} is not a suspect; accepted: {ACCEPTED}.")
    given = dict(given)
    remote: dict[str, Any] = {
        "timeout_s": timeout_s,
        "most_values": most_values,
        "api_key": ApiKey.from_environment(given.pop("api_key_header", None)),
    }
    speaks_v2 = scheme in ("http", "https") and is_v2(url)
    _check(given, "input output datatype" if speaks_v2 else "signature output", suspect)
    if scheme in ("grpc", "grpcs"):
        address = parse_grpc(url)
        secure = scheme == "grpcs"
        return GrpcSuspect(address.host, address.port, address.name, address.version, secure=secure, **given, **remote)
    if speaks_v2:
        return OpenInferenceSuspect(url, **given, **remote)
    return RestSuspect(url, **given, **remote)


def _at_path(
    path: Path, given: dict[str, Any], timeout_s: float, queries: QuerySource | None, most_values: int
) -> Suspect:
    suspect = without_password(str(path))
    if not path.exists():
        raise SuspectError(f"There is no file or folder {suspect}; accepted: {ACCEPTED}.")
    if not path.is_dir() and not path.is_file():
        raise SuspectError(f"{suspect} is a pipe or device, no file. Write its content to a file.")
    if path.suffix in READERS and not path.is_dir():
        _check(given, "", suspect)
        return AnswerFileSuspect(path, queries)
    kind = "saved_model" if path.is_dir() else KINDS.get(path.suffix)
    if kind is None:
        raise ArgumentError(f"{path} is not a suspect; accepted: {ACCEPTED}.")
    _check(given, f"{_CHOICES[kind]} run_untrusted_code", suspect)
    place = highest_version(path) if kind == "saved_model" else path
    return IsolatedSuspect(kind, place, timeout_s=timeout_s, most_values=most_values, **given)


def _check(given: dict[str, Any], accepted: str, suspect: str) -> None:
    """Checks that all options given are among those of a kind of suspect."""
    for name in given:
        if name not in accepted.split():
            option = name.replace("_", "-")
            raise ArgumentError(
                f"`{name}` (--{option}) does not go with {suspect}, which has no choice of it. Leave it out."
            )


def _is_keras_model(suspect: Any) -> bool:
    keras = sys.modules.get("keras")  # without Keras imported, nothing is a Keras model
    return keras is not None and isinstance(suspect, keras.Model)


def _name(suspect: Any) -> str:
    return f"The class {suspect.__name__}" if inspect.isclass(suspect) else f"A {type(suspect).__name__}"
