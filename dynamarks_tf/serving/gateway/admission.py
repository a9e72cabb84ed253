"""Identifies clients, and admits or refuses their requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.request_logs.client_header import CLIENT_HEADER, LONGEST_NAME, check_client_header, read_client
from dynamarks_tf.serving.gateway.api_keys import ApiKeys
from dynamarks_tf.serving.gateway.rate_limit import RateLimiter
from dynamarks_tf.serving.protocol.status import Code, StatusError

CREDENTIALS = ("authorization", "x-api-key")

Headers = Sequence[tuple[str, str | bytes]]


class RateLimitError(StatusError):
    """A client sends too many requests.

    Args:
        wait_s: seconds until it may send another one.
    """

    def __init__(self, wait_s: float) -> None:
        super().__init__(Code.RESOURCE_EXHAUSTED, f"Too many requests. Try again in {wait_s:.1f} s.")
        self.wait_s = wait_s


class Admission:
    """Names the client of a request, or refuses it.

    With `keys`, the client is the owner of the key, sent as `Authorization: Bearer KEY` or `x-api-key: KEY`. With
    `certificates`, its name is the common name of its certificate, otherwise the certificate's first alternative name.
    With neither, its name is the value of the header `client_header`, which a trusted component in front must set.

    Args:
        keys: the API keys that are accepted.
        certificates: whether clients show certificates; TLS has checked them before.
        client_header: the header that names the client if neither keys nor certificates do.
        limiter: limits the rate of each client; clients without a name are distinguished by their address.
        forward_credentials: whether the header with the API key is passed on.

    Raises:
        ArgumentError: both `keys` and `certificates` are given; or `client_header` is not a valid header name, or names
            a header that carries secrets.
    """

    def __init__(
        self,
        *,
        keys: ApiKeys | None = None,
        certificates: bool = False,
        client_header: str = CLIENT_HEADER,
        limiter: RateLimiter | None = None,
        forward_credentials: bool = False,
    ) -> None:
        if keys is not None and certificates:
            raise ArgumentError("Clients show either API keys or certificates. Give one of `keys` and `certificates`.")
        self._keys = keys
        self._certificates = certificates
        self._header = check_client_header(client_header)
        self._limiter = limiter
        self._kept_back = set(CREDENTIALS) if keys is not None and not forward_credentials else set()
        if keys is not None or certificates:
            self._kept_back.add(self._header)  # a name that the client chose itself

    @property
    def keys(self) -> ApiKeys | None:
        """The API keys that are accepted; `None` if none are needed."""
        return self._keys

    @property
    def needs_certificates(self) -> bool:
        """Whether clients are named by their certificates."""
        return self._certificates

    def admit(self, headers: Headers, *, certificate: Sequence[str], address: str) -> str | None:
        """Returns the client's name, `None` if it is unknown.

        Args:
            headers: the headers of the request, or its metadata.
            certificate: the names in the client's certificate, the common one first.
            address: the client's address.

        Raises:
            StatusError: the client is not admitted, or not now.
        """
        client = self._name(headers, certificate)
        if self._limiter is not None and (wait_s := self._limiter.take(client or address)):
            raise RateLimitError(wait_s)
        return client

    def passed_on(self, name: str) -> bool:
        """Whether a header of the request goes to the upstream server."""
        return name.lower() not in self._kept_back

    def _name(self, headers: Headers, certificate: Sequence[str]) -> str | None:
        if self._keys is not None:
            client = next(filter(None, map(self._keys.owner, _keys_sent(headers))), None)
            if client is None:
                raise StatusError(
                    Code.UNAUTHENTICATED, "A valid API key is needed: Authorization: Bearer KEY, or x-api-key: KEY."
                )
            return client
        if self._certificates:
            if not certificate:
                raise StatusError(Code.UNAUTHENTICATED, "A client certificate with a name in it is needed.")
            return certificate[0][:LONGEST_NAME]
        return read_client(headers, self._header)


def _keys_sent(headers: Headers) -> Iterable[str]:
    for name, value in headers:
        if isinstance(value, bytes):
            continue
        scheme, _, token = value.strip().partition(" ")
        if name.lower() == "x-api-key":
            yield value.strip()
        elif name.lower() == "authorization" and scheme.lower() == "bearer":
            yield token.strip()
