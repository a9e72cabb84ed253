"""The operations port of the proxy: liveness, readiness and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import web

from dynamarks_tf.serving.gateway.metrics import Metrics
from dynamarks_tf.serving.protocol import ports

CONNECT_TIMEOUT_S = 1.0


class Operations:
    """Answers `/healthz` (alive), `/readyz` (the upstream server can be reached, and the proxy is not stopping) and
    `/metrics` (Prometheus). There is no authentication: the port must not be published.

    Args:
        metrics: the content of `/metrics`.
        upstreams: host and port of each upstream server.
    """

    def __init__(self, metrics: Metrics, upstreams: Sequence[tuple[str, int]]) -> None:
        self._metrics = metrics
        self._upstreams = upstreams
        self._is_stopping = False
        application = web.Application()
        application.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/readyz", self._readiness),
                web.get("/metrics", self._exposition),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self, host: str, port: int) -> int:
        """Opens the port, any free one if 0, and returns it.

        Raises:
            ServingError: the port cannot be opened.
        """
        listener = ports.listen(host, port, "operations")
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()
        return int(listener.getsockname()[1])

    def announce_stop(self) -> None:
        """Makes `/readyz` answer 503."""
        self._is_stopping = True

    async def stop(self) -> None:
        """Closes the port."""
        await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readiness(self, _: web.Request) -> web.Response:
        if self._is_stopping:
            return web.Response(status=503, text="stopping\n")
        reached = await asyncio.gather(*(_is_open(*upstream) for upstream in self._upstreams))
        if not all(reached):
            return web.Response(status=503, text="the upstream server cannot be reached\n")
        return web.Response(text="ok\n")

    async def _exposition(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.exposition(), content_type="text/plain", charset="utf-8")


async def _is_open(host: str, port: int) -> bool:
    """Whether a port accepts connections; TensorFlow Serving opens its ports when its models are loaded."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), CONNECT_TIMEOUT_S)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True
