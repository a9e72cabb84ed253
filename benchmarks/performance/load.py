"""Servers in processes of their own, and clients that ask them, for serving.py and soak.py."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

PREDICT = "/tensorflow.serving.PredictionService/Predict"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
GRACE_S = 60.0


@dataclass
class Served:
    """A running `dynamarks serve` or `dynamarks proxy`, or another program.

    Attributes:
        process: the process.
        grpc: `host:port` of gRPC.
        rest: `host:port` of REST.
        last_line: the last line of its output.
    """

    process: subprocess.Popen[str]
    grpc: str
    rest: str = ""
    last_line: str = ""

    @functools.cached_property
    def processes(self) -> dict[str, Process]:
        """The processes that answer, by their names: Envoy and the collector of a gateway, otherwise the process."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if _fields(path)[1] == str(self.process.pid):
                    is_collector = b"collector" in path.joinpath("cmdline").read_bytes().split(b"\0")
                    found["collector" if is_collector else "Envoy"] = Process(path)
        return found or {"server": Process(Path(f"/proc/{self.process.pid}"))}


@dataclass(frozen=True)
class Process:
    """A process, by its folder under /proc."""

    path: Path

    def cpu_seconds(self) -> float:
        """Time that the processor spent on it."""
        ticks = map(int, _fields(self.path)[11:13])
        return sum(ticks) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Its memory."""
        return int(self.path.joinpath("statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _fields(process: Path) -> list[str]:
    """What the system says of a process, from its state on; the name before it may hold blanks."""
    return process.joinpath("stat").read_text().rpartition(")")[2].split()


@contextlib.contextmanager
def run(*words: str) -> Iterator[Served]:
    """Runs a subcommand of `dynamarks` that serves gRPC and REST, on free ports."""
    command = [sys.executable, "-m", "dynamarks_tf", *words, "--grpc-port", "0", "--rest-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        addresses: dict[str, str] = {}
        for line in process.stdout:
            name, *rest = line.split()
            if name in ("gRPC", "REST"):
                addresses[name] = rest[0].split("://")[-1].split("/")[0]
            if line.startswith("stop with"):
                break
        else:
            raise SystemExit(f"{' '.join(command)} did not start")
        served = Served(process, addresses["gRPC"], addresses["REST"])
        try:
            yield served
        finally:
            process.terminate()
            served.last_line = process.communicate(timeout=GRACE_S)[0].strip().splitlines()[-1]


@dataclass
class Block:
    """The answers to clients in one stretch of time.

    Attributes:
        seconds: how long it took.
        latencies: of each answer, in seconds.
        errors: how many requests failed.
        cpu: seconds of the processor that each process took, by its name.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds


async def ask(address: str, request: bytes, *, clients: int, seconds: float) -> Block:
    """Sends a request again and again over gRPC, from clients with a connection each; each sends at least one."""
    block = Block()
    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(_channel(address, index)) for index in range(clients)]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        began = time.perf_counter()
        stop = began + seconds
        await asyncio.gather(*(_client(channel, request, index, stop, block) for index, channel in enumerate(channels)))
        block.seconds = time.perf_counter() - began
    return block


def _channel(address: str, index: int) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1), ("client", index)]
    return grpc.aio.insecure_channel(address, options=options)


async def _client(channel: grpc.aio.Channel, request: bytes, index: int, stop: float, block: Block) -> None:
    call = channel.unary_unary(PREDICT)
    metadata = (("x-client-id", f"client-{index}"),)
    while True:
        began = time.perf_counter()
        try:
            await call(request, timeout=GRACE_S, metadata=metadata)
            block.latencies.append(time.perf_counter() - began)
        except grpc.aio.AioRpcError:
            block.errors += 1
        if time.perf_counter() >= stop:
            break
