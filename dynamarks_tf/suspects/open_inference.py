"""A model behind the Open Inference Protocol (KServe, Triton, MLServer: "V2"), over REST, as a suspect."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import texts
from dynamarks_tf.errors import ArgumentError, SuspectError
from dynamarks_tf.suspects.addresses import parse_v2
from dynamarks_tf.suspects.answer_forms import as_array, from_json_texts
from dynamarks_tf.suspects.answer_sizes import MOST_VALUES
from dynamarks_tf.suspects.api_key import ApiKey
from dynamarks_tf.suspects.batches import as_text, brief, fit_shape, fit_type, several_inputs, unreadable
from dynamarks_tf.suspects.json_client import HttpStatusError, JsonClient
from dynamarks_tf.suspects.remote_errors import remote_errors
from dynamarks_tf.suspects.signature import choose_output

Array = npt.NDArray[Any]

DEFAULT_INPUT = "input-0"  # as in the examples of KServe; MLServer takes any name

_NUMPY_TYPES = {  # FP16 cannot be written as JSON
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
_JSON_TYPES: dict[str, set[type]] = {  # how JSON holds values, by the kind of their NumPy type; null is NaN
    "b": {bool, int},
    "i": {int, float},
    "u": {int, float},
    "f": {int, float, type(None)},
    "O": {str},
}
_BROKEN = (ArithmeticError, AttributeError, KeyError, TypeError, ValueError)  # raised by what breaks the protocol
_MOST_AXES = 64  # of NumPy
_DISLIKES_THE_INPUT = (400, 422, 500)


class OpenInferenceSuspect:
    """A model served over REST by anything that speaks the Open Inference Protocol, with tensors as JSON.

    The constructor asks the server for the model's metadata, so a wrong address or name fails at once.

    A server may leave the description of inputs and outputs out, as MLServer and KServe's Python server do unless told
    otherwise. Inputs are then sent in the shape that they have, as FP32 or BYTES, and the only output is read.

    Args:
        url: `http://host:port/v2/models/name`, with `/versions/V` for a specific version; https as well.
        output: name of the output to read. By default the one called `probabilities` or `predict_proba`, otherwise the
            only one. MLServer's scikit-learn runtime answers labels unless `predict_proba` is named.
        input: name of the input, for a server that does not describe it; `input-0` by default.
        datatype: type of the input in the protocol, such as `"FP64"`, for a server that does not describe it.
        timeout_s: seconds to wait for the connection, and then for the whole answer.
        api_key: the key that the server requires of clients, if any.
        most_values: how many numbers the answer to one batch may hold.

    Raises:
        ArgumentError: `url` has another form, or holds a user name or password; the protocol has no such `datatype`.
        SuspectError: the server cannot be reached in time, has no such model or output, or describes another input.

    Example:
        >>> OpenInferenceSuspect("http://localhost:8080/v2/models/clf").predict(images).shape
        (256, 10)
    """

    @remote_errors
    def __init__(
        self,
        url: str,
        *,
        output: str | None = None,
        input: str | None = None,
        datatype: str | None = None,
        timeout_s: float = 30.0,
        api_key: ApiKey | None = None,
        most_values: int = MOST_VALUES,
    ) -> None:
        address = parse_v2(url)
        self.description = address.url
        if datatype is not None and datatype not in _NUMPY_TYPES:
            raise ArgumentError(
                f"`datatype` (--datatype) must be one of {', '.join(_NUMPY_TYPES)}. Received: {brief(repr(datatype))}"
            )
        self._input, self._output, self._datatype = input, output, datatype
        self.input_shape: tuple[int | None, ...] | None = None
        self._is_described = False
        port = "the REST port of a server of the Open Inference Protocol (8080 or 8000 by default)"
        self._client = JsonClient(address, timeout_s=timeout_s, api_key=api_key, port=port, most_values=most_values)
        try:
            self._learn(self._metadata())
        except BaseException:
            self.close()
            raise

    @remote_errors
    def predict(self, batch: Array) -> Array:
        """Answers one batch with one request."""
        array, datatype = self._fit(batch)
        name = DEFAULT_INPUT if self._input is None else self._input
        tensor = {"name": name, "shape": array.shape, "datatype": datatype}
        if texts.may_be_text(array):
            array = as_text(array, self.description)
        body: dict[str, Any] = {"inputs": [{**tensor, "data": array.ravel().tolist()}]}
        if self._output is not None:
            body["outputs"] = [{"name": self._output}]
        try:
            answer = self._client.ask("/infer", body, array)
        except HttpStatusError as error:
            if self._is_described or error.status not in _DISLIKES_THE_INPUT:
                raise
            raise SuspectError(
                f"{error} The server does not describe its input; {name!r} of type {datatype} and shape {array.shape} "
                "was sent. Say otherwise: input=... (--input), datatype=... (--datatype)."
            ) from error
        try:
            outputs = answer["outputs"]
            chosen = choose_output(self.description, _names(outputs), self._output) if outputs else self._output
            (found,) = (output for output in outputs if output["name"] == chosen)
            values = self._values(found)
            return as_array(from_json_texts(values), len(array)) if texts.may_be_text(values) else values
        except _BROKEN as error:
            raise unreadable(self.description, error) from error

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _metadata(self) -> Any:
        """What the server says of the model; nothing if it has the model and does not describe any."""
        try:
            return self._client.ask("")
        except HttpStatusError as error:
            if error.status not in (405, 501) and not (error.status == 404 and self._is_ready()):
                raise
        return {}

    def _is_ready(self) -> bool:
        try:
            self._client.ask("/ready")
        except HttpStatusError as error:
            return error.status == 200  # without JSON, as MLServer and Triton answer
        return True

    def _learn(self, metadata: Any) -> None:
        """Completes what the user said of input and output by the metadata of the server."""
        try:
            inputs, outputs = metadata.get("inputs") or [], metadata.get("outputs") or []
            if len(inputs) > 1:
                raise several_inputs(self.description, _names(inputs))
            if inputs:
                (name,), (tensor,) = _names(inputs), inputs
                self._input = self._agreed("input", self._input, name)
                self._datatype = self._agreed("datatype", self._datatype, tensor.get("datatype"))
                axes = _axes(tensor.get("shape") or [])[1:]  # the first is that of the batch
                self.input_shape = tuple(int(size) if size >= 0 else None for size in axes) or None
                self._is_described = True
            if self._datatype is not None:
                _numpy_type(self._datatype, f"{self.description} takes inputs")
            if outputs:
                self._output = choose_output(self.description, _names(outputs), self._output)
        except _BROKEN as error:
            raise unreadable(self.description, error) from error

    def _agreed(self, option: str, said: str | None, described: str | None) -> str | None:
        if None not in (said, described) and said != described:
            raise SuspectError(
                f"{self.description} describes its {option} as {brief(repr(described))}. Received: "
                f"{option}={brief(repr(said))} (--{option}). Leave it out."
            )
        return said if described is None else described

    def _fit(self, batch: Array) -> tuple[Array, str]:
        """The batch in the type to send, and the name of that type in the protocol."""
        array = fit_shape(batch, self.input_shape, self.description)
        datatype = self._datatype or ("BYTES" if texts.may_be_text(array) else "FP32")
        fitted = fit_type(array, np.dtype(_NUMPY_TYPES[datatype]), self.description)
        if self._datatype is None and array.dtype.kind in "iu" and not np.array_equal(fitted, array):
            raise SuspectError(
                f"{self.description} does not say what type of input it takes, and the whole numbers of the queries "
                "are too large for FP32. Name the type: datatype='INT64' (--datatype INT64)."
            )
        return fitted, datatype

    def _values(self, tensor: Any) -> Array:
        """The values of an output, whose data may come flat or nested."""
        dtype = _numpy_type(tensor["datatype"], f"{self.description} answers values")
        shape, data = _axes(tensor["shape"]), np.asarray(tensor["data"], object)
        flat = data.ravel()
        if list(data.shape) not in (shape, [np.prod(shape, dtype=object)]):
            raise self._contradicts(tensor, f"holds {flat.size} values in the shape {list(data.shape)}")
        if not {type(value) for value in flat.tolist()} <= _JSON_TYPES[dtype.kind]:
            raise self._contradicts(tensor, "holds values of another type")
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # a number too large for FP32 becomes infinity
                values: Array = flat.astype(dtype)
            fits = dtype.kind not in "biu" or np.array_equal(values, flat)
        except ArithmeticError:
            fits = False
        if not fits:
            raise self._contradicts(tensor, "holds values outside of this type")
        return np.reshape(values, shape)

    def _contradicts(self, tensor: Any, problem: str) -> SuspectError:
        said = brief(f"{tensor['name']!r} of shape {reprlib.repr(tensor['shape'])} and type {tensor['datatype']}")
        return SuspectError(
            f"{self.description} contradicts itself: it answers {said}, which {problem}. Read another output "
            "(--output), or pass a function of one batch that makes sense of it."
        )


def _axes(shape: Any) -> Any:
    if len(shape) > _MOST_AXES:
        raise ValueError(f"a shape of {len(shape)} axes")
    return shape


def _names(tensors: Any) -> list[str]:
    names = [tensor["name"] for tensor in tensors]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("a name is not text")
    return names


def _numpy_type(name: str, what: str) -> np.dtype[Any]:
    if name not in _NUMPY_TYPES:
        raise SuspectError(f"{what} of type {brief(name)}; accepted are {', '.join(_NUMPY_TYPES)}.")
    return np.dtype(_NUMPY_TYPES[name])
