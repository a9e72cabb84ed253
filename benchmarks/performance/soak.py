"""Does memory stay constant? A marked model behind the local server and the gateway, asked for minutes, with logging.

    python benchmarks/performance/soak.py            # ten minutes, 64 clients
    python benchmarks/performance/soak.py --quick    # half a minute, 8 clients: a check that it works

Half of the clients ask over gRPC, half over REST. Memory of the server, of Envoy and of the collector is read every few
seconds; the first quarter of the time is warm-up. Prints the growth from then on, and what was logged and lost. Exits
with 1 if a request failed, or if an answer is neither in the log nor counted as lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import aiohttp
import numpy as np

import dynamarks_tf as dm
from benchmarks.performance.load import GRACE_S, Block, Process, Served, ask, run
from benchmarks.performance.serving import request_for, tiny

SAMPLE_S = 2.0
WARM_UP = 0.25  # of the time


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half a minute, 8 clients")
    parser.add_argument("--minutes", type=float, help="duration (default 10)")
    parser.add_argument("--clients", type=int, help="clients that ask at the same time (default 64)")
    options = parser.parse_args()
    minutes = options.minutes or (0.5 if options.quick else 10.0)
    clients = options.clients or (8 if options.quick else 64)
    model = tiny()
    with tempfile.TemporaryDirectory() as root:
        dm.export_saved_model(dm.mark(model, dm.MarkKey(bytes(range(32)), "benchmark")), Path(root, "m", "1"))
        with run("serve", str(Path(root, "m"))) as server:
            words = ("--upstream", server.grpc, "--upstream-rest", server.rest, "--log-dir", str(Path(root, "logs")))
            with run("proxy", *words) as gateway:
                processes = {**server.processes, **gateway.processes}
                work = soak(processes, gateway, request_for(model, "m"), clients, 60 * minutes)
                block, samples = asyncio.run(work)
        size = sum(path.stat().st_size for path in Path(root, "logs").iterdir())
    answers = len(block.latencies)
    print(f"{answers} answers, {block.errors} errors in {block.seconds:.0f} s; {size / 1e6:.0f} MB logged")
    print(f"gateway: {gateway.last_line}")
    logged, dropped = map(int, re.findall(r"\d+", gateway.last_line))
    print(f"neither logged nor counted as dropped: {answers - logged - dropped}")
    times = np.array([when for when, _ in samples])
    for index, name in enumerate(processes):
        sizes = np.array([size[index] for _, size in samples]) / 2**20
        warm = times >= WARM_UP * times[-1]
        slope = np.polyfit(times[warm], sizes[warm], 1)[0] * 60
        print(
            f"{name}: {sizes[0]:.0f} MiB at first, {sizes[warm][0]:.0f} after warm-up, {sizes[-1]:.0f} at the end "
            f"({sizes[-1] / sizes[warm][0] - 1:+.1%}; slope {slope:+.2f} MiB a minute)"
        )
    return 1 if block.errors or logged + dropped != answers else 0


async def soak(
    processes: dict[str, Process], gateway: Served, request: bytes, clients: int, seconds: float
) -> tuple[Block, list[tuple[float, list[int]]]]:
    """Asks through the gateway; returns the answers to the clients, and the memory of all processes over time."""
    over_rest = Block()
    asking = asyncio.gather(
        ask(gateway.grpc, request, clients=clients // 2, seconds=seconds),
        ask_rest(gateway.rest, clients - clients // 2, seconds, over_rest),
    )
    began = time.monotonic()
    samples = []
    while not asking.done():
        sizes = [process.resident_bytes() for process in processes.values()]
        samples.append((time.monotonic() - began, sizes))
        await asyncio.wait([asking], timeout=SAMPLE_S)
    block, _ = await asking
    block.latencies += over_rest.latencies
    block.errors += over_rest.errors
    return block, samples


async def ask_rest(address: str, clients: int, seconds: float, block: Block) -> None:
    """Sends requests over REST, from each client one after the other."""
    image = np.random.default_rng(0).random((1, 28, 28, 1)).round(4)
    body = json.dumps({"instances": image.tolist()}).encode()
    stop = time.monotonic() + seconds

    async def client(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < stop:
            began = time.perf_counter()
            async with session.post(f"http://{address}/v1/models/m:predict", data=body) as answer:
                await answer.read()
            if answer.status == 200:
                block.latencies.append(time.perf_counter() - began)
            else:
                block.errors += 1

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=GRACE_S)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))


if __name__ == "__main__":
    sys.exit(main())
