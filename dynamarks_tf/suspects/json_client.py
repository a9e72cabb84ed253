"""Requests to a model server over HTTP: JSON both ways, and an explanation of every failure."""

from __future__ import annotations

import contextlib
import json
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from dynamarks_tf import foreign_text
from dynamarks_tf._support import strict_json
from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.addresses import Address
from dynamarks_tf.suspects.answer_sizes import MOST_VALUES, largest_answer
from dynamarks_tf.suspects.api_key import VARIABLE, ApiKey, hide
from dynamarks_tf.suspects.batches import brief, closed, refusal

if TYPE_CHECKING:
    import requests

Array = npt.NDArray[Any]

CHUNK = 2**16  # bytes
_LOGGERS = ("urllib3.connectionpool", "urllib3.connection", "urllib3.response", "urllib3.util.retry")  # quote servers
_VALUES_EACH = 3  # values of JSON for one number: an object, a name, the number

CREDENTIALS = f"If the server requires a key, put it into {VARIABLE}; for other credentials, pass a function."

_ADVICE = {
    401: CREDENTIALS,
    403: CREDENTIALS,
    404: "Check the name of the model, and the version if one was given.",
    413: "Send smaller batches.",
    429: "The server is busy: send smaller batches, fewer queries a second, or try later.",
    503: "The server is busy, or still loading: try later.",
    504: "Send smaller batches.",
}


class HttpStatusError(SuspectError):
    """A server answered with another status than 200, or with no JSON."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class JsonClient:
    """A connection to the server of one model. Redirects are refused: another server would be another suspect.

    Args:
        address: where the model is.
        timeout_s: seconds to wait for the connection, and then for the whole answer, even if it trickles.
        api_key: the key that the server requires of clients, if any.
        port: description of the port that the address should name, for messages.
        most_values: how many numbers an answer may hold.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout_s: float,
        api_key: ApiKey | None,
        port: str,
        most_values: int = MOST_VALUES,
    ) -> None:
        import requests

        from dynamarks_tf._support.deadline import Deadline
        from dynamarks_tf.suspects.retries import http_retries

        self._description = address.url
        self._timeout_s = timeout_s
        self._deadline = Deadline(timeout_s)
        self._api_key = api_key
        self._port = port
        self._most_values = most_values
        self._session: requests.Session | None = requests.Session()
        self._session.trust_env = not address.is_loopback  # for proxies, which cannot reach this machine
        self._session.auth = self._add_key  # also without a key: otherwise requests sends what ~/.netrc holds
        for name in _LOGGERS:
            foreign_text.logger(name)
        if self._session.trust_env:
            _keep_passwords_of_proxies()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, self._deadline.adapter(http_retries()))
        if api_key is not None:
            api_key.check_is_private(address.scheme, address.host, address.url)

    def ask(self, suffix: str, body: Any = None, batch: Array | None = None) -> Any:
        """Sends one request and reads the JSON answer.

        Args:
            suffix: what is added to the address of the model.
            body: sent as JSON by POST; `None` for a GET.
            batch: the inputs in it, for messages.

        Raises:
            HttpStatusError: the server refused, or sent no JSON.
            SuspectError: there was no usable answer; the message tells why.
        """
        import requests
        import urllib3

        if self._session is None:
            raise closed(self._description)
        try:
            with self._session.request(
                "GET" if body is None else "POST",
                self._description + suffix,
                data=None if body is None else json.dumps(body).encode(),
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                timeout=self._timeout_s,
                allow_redirects=False,
                stream=True,
            ) as response:
                content = self._receive(response)
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            ValueError,
        ) as error:  # ValueError: an impossible host name
            if self._deadline.has_passed or isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
                raise self._too_slow() from error
            raise SuspectError(
                f"{self._description} cannot be reached ({self._words_of(error)}). Is the server running, and "
                f"is this {self._port}?"
            ) from error
        finally:
            self._deadline.stop()
        return self._read(response.status_code, content, batch)

    def close(self) -> None:
        """Closes the connections. May be called twice."""
        if self._session is not None:
            self._session.close()
        self._session = None

    def _receive(self, response: requests.Response) -> bytes:
        """Reads the whole answer without unpacking it, which could turn a few bytes into gigabytes."""
        content = bytearray()
        largest = largest_answer(self._most_values)
        for chunk in response.raw.stream(CHUNK, decode_content=False):
            content += chunk
            if len(content) > largest:
                raise SuspectError(
                    f"{self._description} sends an answer of more than {largest} bytes. Send smaller batches."
                )
        if self._deadline.has_passed:  # without a Content-Length, the cut looks like a regular end
            raise self._too_slow()
        return bytes(content)

    def _too_slow(self) -> SuspectError:
        return SuspectError(
            f"{self._description} did not answer within {self._timeout_s:g} s. Raise timeout_s, or send smaller "
            "batches."
        )

    def _read(self, status: int, received: bytes, batch: Array | None) -> Any:
        try:
            most = _VALUES_EACH * self._most_values + MOST_VALUES // 8
            content = strict_json.parse(received, numbers_only=False, most_values=most)  # servers write NaN
        except ValueError as error:
            content = None
            if status == 200 and isinstance(error, strict_json.JsonBoundsError):
                raise SuspectError(f"{self._description} sends an answer that is not read: {brief(error)}.") from error
        if status == 200 and content is not None:
            return content
        details = content["error"] if isinstance(content, dict) and "error" in content else received
        details = details.decode("utf-8", "replace") if isinstance(details, bytes) else str(details)
        if details.startswith("Traceback "):  # MLServer sends all of it
            details = details.strip().splitlines()[-1]
        details = brief(hide(details, self._api_key) or "no details")
        if status == 400 and batch is not None:
            raise HttpStatusError(str(refusal(self._description, batch, details)), status)
        advice = _ADVICE.get(status, f"Is this {self._port}?")
        raise HttpStatusError(f"{self._description} answered with HTTP status {status}: {details}. {advice}", status)

    def _words_of(self, error: BaseException) -> str:
        return brief(hide(str(_innermost(error)), self._api_key))

    def _add_key(self, request: Any) -> Any:
        if self._api_key is not None:
            name, value = self._api_key.entry()
            request.headers[name] = value
        return request


def _keep_passwords_of_proxies() -> None:
    """Keeps passwords in the addresses of proxies, which come from the environment, out of errors."""
    for address in urllib.request.getproxies().values():
        with contextlib.suppress(ValueError):
            foreign_text.keep_secret(urllib.parse.urlsplit(address).password or "")


def _innermost(error: BaseException) -> BaseException:
    """The error that came first: that of the socket, not one wrapped around it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error
