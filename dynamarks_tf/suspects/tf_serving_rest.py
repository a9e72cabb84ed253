"""A model behind TensorFlow Serving's REST API as suspect."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.addresses import parse_rest
from dynamarks_tf.suspects.batches import brief, closed, refusal, unreadable
from dynamarks_tf.suspects.signature import SuspectSignature, choose_signature, numpy_type, pick

Array = npt.NDArray[Any]

_ADVICE = {
    404: "Check the name of the model, and the version if one was given.",
    401: "For a server that asks for credentials, pass a function that calls it.",
    403: "For a server that asks for credentials, pass a function that calls it.",
    429: "The server is busy: ask smaller batches, or later.",
    504: "Ask smaller batches.",
}


class RestSuspect:
    """A model served over REST by TensorFlow Serving, or by anything that speaks its API.

    The constructor asks the server for the signature, so a wrong address or name fails at once. Redirects are not
    followed: another server would be another suspect.

    Args:
        url: `http://host:port/v1/models/name`, with `/versions/N` for a version other than the highest; https as well.
        signature: name of the signature to call.
        output: name of the output to read. By default the one called `probabilities`, else the only one.
        timeout_s: seconds to wait for the connection, and then for the server to say something.

    Raises:
        ArgumentError: `url` has another form, or holds a user name or password.
        SuspectError: the server cannot be reached in time, or has no such model, signature or output.

    Example:
        >>> RestSuspect("http://localhost:8501/v1/models/clf").predict(images).shape
        (256, 10)
    """

    def __init__(
        self, url: str, *, signature: str = "serving_default", output: str | None = None, timeout_s: float = 30.0
    ) -> None:
        import requests

        address = parse_rest(url)
        self.description = address.url
        self._signature_name = signature
        self._timeout_s = timeout_s
        self._session: requests.Session | None = requests.Session()
        self._session.trust_env = not address.is_loopback  # proxies lead away from this machine
        try:
            self._signature = self._learn_signature(output)
        except BaseException:
            self.close()
            raise
        self.input_shape = self._signature.shape

    def predict(self, batch: Array) -> Array:
        """Answers one batch with one request. A NaN in an answer comes back as NaN."""
        array = self._signature.fit(batch)
        body = {"signature_name": self._signature_name, "inputs": {self._signature.input: array.tolist()}}
        answer = self._ask("POST", ":predict", body, array)
        try:
            outputs = answer["outputs"]
            return np.asarray(outputs if len(self._signature.outputs) == 1 else outputs[self._signature.output])
        except (KeyError, TypeError, ValueError) as error:
            raise unreadable(self.description, error) from error

    def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            self._session.close()
        self._session = None

    def _learn_signature(self, output: str | None) -> SuspectSignature:
        metadata = self._ask("GET", "/metadata")
        try:
            signatures = metadata["metadata"]["signature_def"]["signature_def"]
            definition = pick(self.description, signatures, self._signature_name)
            inputs = {
                alias: (_shape(info["tensor_shape"]), numpy_type(info["dtype"], self.description))
                for alias, info in definition["inputs"].items()
            }
            return choose_signature(self.description, inputs, definition["outputs"], output)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise unreadable(self.description, error) from error

    def _ask(self, method: str, what: str, body: Any = None, batch: Array | None = None) -> Any:
        """Sends one request and reads the JSON that comes back."""
        import requests

        if self._session is None:
            raise closed(self.description)
        data = None if body is None else json.dumps(body).encode()
        try:
            response = self._session.request(
                method,
                self.description + what,
                data=data,
                headers={"Content-Type": "application/json"},
                timeout=self._timeout_s,
                allow_redirects=False,
            )
        except requests.Timeout as error:
            raise SuspectError(
                f"{self.description} did not answer within {self._timeout_s:g} s. Raise timeout_s, or ask smaller "
                "batches."
            ) from error
        except (requests.RequestException, ValueError) as error:  # ValueError: a host name that cannot be
            raise SuspectError(
                f"{self.description} cannot be reached ({brief(_innermost(error))}). Is the server running, and is "
                "this its REST port (8501 by default)?"
            ) from error
        return self._read(response, batch)

    def _read(self, response: Any, batch: Array | None) -> Any:
        try:
            content = json.loads(response.content)  # Python's own: it reads the NaN and Infinity of TensorFlow Serving
        except (ValueError, RecursionError):
            content = None
        if response.status_code == 200 and content is not None:
            return content
        said = brief(content["error"] if isinstance(content, dict) and "error" in content else response.content)
        if response.status_code == 400 and batch is not None:
            raise refusal(self.description, batch, said)
        advice = _ADVICE.get(response.status_code, "Is this the REST port of TensorFlow Serving (8501 by default)?")
        raise SuspectError(f"{self.description} answered with HTTP status {response.status_code}: {said}. {advice}")


def _shape(shape: Any) -> tuple[int | None, ...] | None:
    sizes = [int(axis["size"]) for axis in shape.get("dim", ())]
    return None if shape.get("unknown_rank") else tuple(size if size >= 0 else None for size in sizes)


def _innermost(error: BaseException) -> BaseException:
    """Finds what went wrong first: the error of the socket, not the ones wrapped around it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error
