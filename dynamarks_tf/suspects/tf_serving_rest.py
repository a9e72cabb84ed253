"""A model behind TensorFlow Serving's REST API as a suspect."""

from __future__ import annotations

import base64
from typing import Any

import numpy.typing as npt

from dynamarks_tf.suspects.addresses import parse_rest
from dynamarks_tf.suspects.answer_forms import as_array
from dynamarks_tf.suspects.answer_sizes import MOST_VALUES
from dynamarks_tf.suspects.api_key import ApiKey
from dynamarks_tf.suspects.batches import unreadable
from dynamarks_tf.suspects.json_client import JsonClient
from dynamarks_tf.suspects.remote_errors import remote_errors
from dynamarks_tf.suspects.signature import SuspectSignature, choose_name, choose_signature, numpy_type

Array = npt.NDArray[Any]


class RestSuspect:
    """A model served over REST by TensorFlow Serving, or by anything that speaks its API.

    The constructor asks the server for the signature, so a wrong address or name fails at once.

    Args:
        url: `http://host:port/v1/models/name`, with `/versions/N` for a version other than the highest; https as well.
        signature: name of the signature to call. By default `serving_default`, otherwise the only one.
        output: name of the output to read. By default the one called `probabilities`, otherwise the only one.
        timeout_s: seconds to wait for the connection, and then for the whole answer.
        api_key: the key that the server requires of clients, if any.
        most_values: how many numbers the answer to one batch may hold.

    Raises:
        ArgumentError: `url` has another form, or holds a user name or password.
        SuspectError: the server cannot be reached in time, or has no such model, signature or output.

    Example:
        >>> RestSuspect("http://localhost:8501/v1/models/clf").predict(images).shape
        (256, 10)
    """

    @remote_errors
    def __init__(
        self,
        url: str,
        *,
        signature: str | None = None,
        output: str | None = None,
        timeout_s: float = 30.0,
        api_key: ApiKey | None = None,
        most_values: int = MOST_VALUES,
    ) -> None:
        address = parse_rest(url)
        self.description = address.url
        port = "the REST port of TensorFlow Serving (8501 by default)"
        self._client = JsonClient(address, timeout_s=timeout_s, api_key=api_key, port=port, most_values=most_values)
        try:
            self._signature_name, self._signature = self._learn_signature(signature, output)
        except BaseException:
            self.close()
            raise
        self.input_shape = self._signature.shape

    @remote_errors
    def predict(self, batch: Array) -> Array:
        """Answers one batch with one request. A NaN in an answer stays a NaN."""
        array = self._signature.fit(batch)
        body = {"signature_name": self._signature_name, "inputs": {self._signature.input: _json(array.tolist())}}
        answer = self._client.ask(":predict", body, array)
        try:
            outputs = answer["outputs"]
            given = outputs if len(self._signature.outputs) == 1 else outputs[self._signature.output]
            return as_array(given, len(array))
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise unreadable(self.description, error) from error

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _learn_signature(self, name: str | None, output: str | None) -> tuple[str, SuspectSignature]:
        metadata = self._client.ask("/metadata")
        try:
            signatures = metadata["metadata"]["signature_def"]["signature_def"]
            name = choose_name(self.description, signatures, name)
            definition = signatures[name]
            inputs = {
                alias: (_shape(info["tensor_shape"]), numpy_type(info["dtype"], self.description))
                for alias, info in definition["inputs"].items()
            }
            return name, choose_signature(self.description, inputs, definition["outputs"], output)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise unreadable(self.description, error) from error


def _json(value: Any) -> Any:
    """Nested lists as JSON has them: bytes as strings where these are sure to arrive as they are, else in base64."""
    if isinstance(value, list):
        return [_json(item) for item in value] if value and isinstance(value[0], (list, bytes)) else value
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    return {"b64": base64.b64encode(value).decode("ascii")} if "\0" in text else text


def _shape(shape: Any) -> tuple[int | None, ...] | None:
    sizes = [int(axis["size"]) for axis in shape.get("dim", ())]
    return None if shape.get("unknown_rank") else tuple(size if size >= 0 else None for size in sizes)
