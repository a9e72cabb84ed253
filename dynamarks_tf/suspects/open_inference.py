"""A model behind the Open Inference Protocol (KServe, Triton, MLServer: "V2"), over REST, as a suspect."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import texts
from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.addresses import parse_v2
from dynamarks_tf.suspects.api_key import ApiKey
from dynamarks_tf.suspects.batches import as_text, unreadable
from dynamarks_tf.suspects.json_client import JsonClient
from dynamarks_tf.suspects.signature import SuspectSignature, choose_signature

Array = npt.NDArray[Any]

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


class OpenInferenceSuspect:
    """A model served over REST by anything that speaks the Open Inference Protocol, with tensors as JSON.

    The constructor asks the server for the model's metadata, so a wrong address or name fails at once.

    Args:
        url: `http://host:port/v2/models/name`, with `/versions/V` for a specific version; https as well.
        output: name of the output to read. By default the one called `probabilities` or `predict_proba`, otherwise the
            only one.
        timeout_s: seconds to wait for the connection, and then for the whole answer.
        api_key: the key that the server requires of clients, if any.

    Raises:
        ArgumentError: `url` has another form, or holds a user name or password.
        SuspectError: the server cannot be reached in time, has no such model or output, or does not describe its input.

    Example:
        >>> OpenInferenceSuspect("http://localhost:8080/v2/models/clf").predict(images).shape
        (256, 10)
    """

    def __init__(
        self, url: str, *, output: str | None = None, timeout_s: float = 30.0, api_key: ApiKey | None = None
    ) -> None:
        address = parse_v2(url)
        self.description = address.url
        port = "the REST port of a server of the Open Inference Protocol (8080 or 8000 by default)"
        self._client = JsonClient(address, timeout_s=timeout_s, api_key=api_key, port=port)
        try:
            self._datatype, self._signature = self._learn_signature(output)
        except BaseException:
            self.close()
            raise
        self.input_shape = self._signature.shape

    def predict(self, batch: Array) -> Array:
        """Answers one batch with one request."""
        array = self._signature.fit(batch)
        tensor = {"name": self._signature.input, "shape": array.shape, "datatype": self._datatype}
        if texts.may_be_text(array):
            array = as_text(array, self.description)
        body = {"inputs": [{**tensor, "data": array.ravel().tolist()}], "outputs": [{"name": self._signature.output}]}
        answer = self._client.ask("/infer", body, array)
        try:
            (found,) = (output for output in answer["outputs"] if output["name"] == self._signature.output)
            values = np.asarray(found["data"], _numpy_type(found["datatype"], f"{self.description} answers values"))
            return np.reshape(values, found["shape"])  # the data may come flat or nested
        except (KeyError, TypeError, ValueError) as error:
            raise unreadable(self.description, error) from error

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _learn_signature(self, output: str | None) -> tuple[str, SuspectSignature]:
        metadata = self._client.ask("")
        try:
            inputs = {tensor["name"]: tensor for tensor in metadata.get("inputs") or ()}
            outputs = [tensor["name"] for tensor in metadata.get("outputs") or ()]
            if not inputs or not outputs:
                raise SuspectError(
                    f"{self.description} does not describe inputs and outputs in its metadata, which are optional "
                    "there; pass a function of one batch that asks it."
                )
            described = {
                name: (
                    tuple(int(size) if size >= 0 else None for size in tensor["shape"]),
                    _numpy_type(tensor["datatype"], f"{self.description} takes inputs"),
                )
                for name, tensor in inputs.items()
            }
            signature = choose_signature(self.description, described, outputs, output)
            return inputs[signature.input]["datatype"], signature
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise unreadable(self.description, error) from error


def _numpy_type(name: str, what: str) -> np.dtype[Any]:
    if name not in _NUMPY_TYPES:
        raise SuspectError(f"{what} of type {name}; accepted are {', '.join(_NUMPY_TYPES)}.")
    return np.dtype(_NUMPY_TYPES[name])
