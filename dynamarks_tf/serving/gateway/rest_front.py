"""REST through the proxy: bodies are passed on as bytes, and not decoded."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from dynamarks_tf.serving.gateway.admission import Admission, RateLimitError
from dynamarks_tf.serving.gateway.in_flight import InFlight, OverloadError
from dynamarks_tf.serving.gateway.metrics import Metrics
from dynamarks_tf.serving.gateway.request_logger import RequestLogger
from dynamarks_tf.serving.gateway.rest_prediction import is_prediction, may_be_prediction
from dynamarks_tf.serving.gateway.tls import Tls, names_of
from dynamarks_tf.serving.gateway.upstream import unreachable
from dynamarks_tf.serving.protocol import json_tensor, ports
from dynamarks_tf.serving.protocol.status import HTTP_STATUS, Code, StatusError


def _hide_what_was_sent(record: logging.LogRecord) -> bool:
    """Reduces an error in a request to its class: its text quotes the faulty line, which may hold an API key."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}", ()
        record.exc_info = None
    return True


_LOG = logging.getLogger(__name__)
_LOG.addFilter(_hide_what_was_sent)

SERVED = re.compile(r"/v1/models(?:[/:?].*)?", re.IGNORECASE | re.DOTALL)
BODY_TIMEOUT_S = 30.0  # for a client to send its request
CONNECT_TIMEOUT_S = 5.0
CLIENT_GONE = "499"  # as nginx counts it

_HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    "upgrade content-length".split()
)
_OWN = frozenset({"host", "expect"})
_AUTOMATIC = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


class _TooLargeError(Exception):
    """A request is too large."""


class RestFront:
    """Passes requests under `/v1/models` on to a server.

    Args:
        upstream: `http://host:port` of the server.
        admission: identifies and admits clients.
        metrics: counts the requests.
        request_logger: logs predictions; no log if `None`.
        max_body_bytes: the largest size of a request.
        in_flight: limits the size of the requests under way.
        timeout_s: seconds that the server may take to answer.
    """

    def __init__(
        self,
        upstream: str,
        *,
        admission: Admission,
        metrics: Metrics,
        request_logger: RequestLogger | None,
        max_body_bytes: int,
        in_flight: InFlight,
        timeout_s: float,
    ) -> None:
        self._upstream = upstream
        self._admission = admission
        self._metrics = metrics
        self._request_logger = request_logger
        self._max_body_bytes = max_body_bytes
        self._in_flight = in_flight
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            skip_auto_headers=_AUTOMATIC,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S),
        )
        self._runner: web.ServerRunner | None = None

    async def start(self, host: str, port: int, tls: Tls | None) -> int:
        """Opens the port, any free one if 0, and returns it.

        Raises:
            ServingError: the port cannot be opened.
        """
        listener = ports.listen(host, port, "REST")
        server = web.Server(
            self._answer,
            handler_cancellation=True,  # stops the work for a client that has disconnected
            auto_decompress=False,
            access_log=None,
            logger=_LOG,
        )
        self._runner = web.ServerRunner(server)
        await self._runner.setup()
        await web.SockSite(self._runner, listener, ssl_context=tls.context if tls else None).start()
        return int(listener.getsockname()[1])

    async def stop(self, grace_s: float) -> None:
        """Refuses new connections at once, and lets the requests under way end within `grace_s` seconds."""
        if self._runner is not None:
            self._runner._shutdown_timeout = grace_s
            await self._runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        began = time.perf_counter()
        code = CLIENT_GONE
        try:
            try:
                with self._in_flight.request() as take:
                    response = await self._pass(request, take)
            except StatusError as error:
                response = _refusal(503 if isinstance(error, OverloadError) else HTTP_STATUS[error.code], error)
                if isinstance(error, OverloadError):
                    response.force_close()  # the rest of the body is not read
            except _TooLargeError:
                problem = f"The request is larger than {self._max_body_bytes} bytes, which is the limit."
                response = _error(413, problem)
                response.force_close()  # the rest of the body is not read
            code = str(response.status)
            return response
        finally:
            self._metrics.count("rest", code, time.perf_counter() - began)

    async def _pass(self, request: web.BaseRequest, take: Callable[[int], None]) -> web.Response:
        path = request.raw_path  # as sent: neither decoded nor cut at the "?"
        if not is_served(path):
            raise StatusError(Code.NOT_FOUND, "Not Found")
        url = URL(self._upstream + path, encoded=True)
        if "#" in path or url.raw_path_qs != path:  # the sent path must be the one that is checked and logged
            raise StatusError(Code.INVALID_ARGUMENT, "The path has a fragment, an empty query, or control characters")
        transport = request.transport
        certificate = names_of(transport.get_extra_info("peercert")) if transport else []
        headers = list(request.headers.items())
        client = self._admission.admit(headers, certificate=certificate, address=request.remote or "")
        body = await self._read(request, take)
        passed_on = [pair for pair in _end_to_end(request.headers, drop=_OWN) if self._admission.passed_on(pair[0])]
        status, reason, answered, answer = await self._ask(request.method, url, passed_on, body)
        if self._request_logger is not None and status == 200:
            if is_prediction(request.method, path):
                is_packed = "gzip" in CIMultiDict(passed_on).get(
                    "Content-Encoding", ""
                )  # as the upstream server sees it
                self._request_logger.log_rest(path, body, answer, is_packed=is_packed, client=client)
            elif may_be_prediction(request.method, path):
                self._request_logger.count_unknown(client)
        response = web.Response(status=status, reason=reason, body=answer, headers=CIMultiDict(_end_to_end(answered)))
        return _nameless(response)

    async def _read(self, request: web.BaseRequest, take: Callable[[int], None]) -> bytes:
        if (request.content_length or 0) > self._max_body_bytes:
            raise _TooLargeError
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        try:
            return await asyncio.wait_for(self._receive(request.content, take), BODY_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise StatusError(Code.DEADLINE_EXCEEDED, "The request did not arrive in time") from None

    async def _receive(self, stream: aiohttp.StreamReader, take: Callable[[int], None]) -> bytes:
        parts, size = [], 0
        async for part in stream.iter_any():
            size += len(part)
            if size > self._max_body_bytes:
                raise _TooLargeError
            take(len(part))
            parts.append(part)
        return b"".join(parts)

    async def _ask(
        self, method: str, url: URL, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[int, str | None, CIMultiDictProxy[str], bytes]:
        for is_last in (False, True):
            try:
                async with self._session.request(
                    method, url, headers=headers, data=body or None, allow_redirects=False
                ) as response:
                    return response.status, response.reason, response.headers, await response.read()
            except aiohttp.ServerDisconnectedError as error:
                if is_last:  # the first one may be an old connection; a prediction may be requested twice
                    raise unreachable() from error
            except aiohttp.ConnectionTimeoutError as error:
                raise unreachable() from error
            except asyncio.TimeoutError as error:
                problem = "The server behind this proxy did not answer in time"
                raise StatusError(Code.DEADLINE_EXCEEDED, problem) from error
            except (aiohttp.ClientError, OSError) as error:
                raise unreachable() from error
        raise AssertionError("the last attempt returns or raises")


def is_served(path: str) -> bool:
    """Whether a path leads to models, and does not leave them by `..`."""
    return SERVED.fullmatch(path) is not None and not {".", ".."} & set(unquote(path).split("/"))


def _end_to_end(headers: CIMultiDictProxy[str], drop: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """Yields the end-to-end headers, without those of one connection."""
    named = {name.strip().lower() for value in headers.getall("Connection", ()) for name in value.split(",")}
    for name, value in headers.items():
        if name.lower() not in _HOP_BY_HOP | named | drop:
            yield name, value


def _refusal(status: int, error: StatusError) -> web.Response:
    response = _error(status, error.message)
    if isinstance(error, RateLimitError):
        response.headers["Retry-After"] = str(math.ceil(error.wait_s))
    if error.code is Code.UNAUTHENTICATED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _error(status: int, message: str) -> web.Response:
    return _nameless(web.Response(status=status, text=json_tensor.error_body(message), content_type="application/json"))


def _nameless(response: web.Response) -> web.Response:
    response.headers.setdefault("Server", "proxy")  # otherwise aiohttp shows its version and Python's
    return response
