"""The cost of the mark and of the gateway for clients: throughput, 99th percentile of latency, processor time, memory.

    python benchmarks/performance/serving.py            # about 25 minutes, on a quiet machine
    python benchmarks/performance/serving.py --quick    # two or three minutes: a check that it works, not of speed

Three models answer 1, 8 and 64 clients over gRPC, in one local server: a MobileNetV2 (random weights, 1,000 classes,
one image of 600 kB a request) and a tiny CNN (3 kB), marked and unmarked; and one of 600 kB that costs next to nothing.
Before the last two stand a bare Envoy, the gateway, which is an Envoy that keeps copies, and HAProxy where it is
installed. Each has one thread.

There are two controls: the unmarked model served twice, and a second server that does the same as the first.
Differences there come from the machine.

All sides of a model alternate in short rounds, so that all meet the same state of the machine. The ratio of throughputs
is the median over rounds, the ratio of latencies that of all answers of each side. In brackets: 90 % intervals, by
resampling rounds (Efron, Bootstrap methods, 1979). Processor time is that of a process while its side was asked, over
the answers; the collector works on for a moment, for which it is waited. Also: the memory of the layer's tables.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

import dynamarks_tf as dm
from benchmarks import result_file
from benchmarks.performance.load import Block, Served, ask, run
from dynamarks_tf.serving.gateway.launcher import find_envoy
from dynamarks_tf.watermark.params import DEFAULT_TIE_MARGIN

ROUND_S = {1: 0.5, 8: 0.5, 64: 2.0}  # by number of clients; 64 of them wait for each other
SECONDS, QUICK_SECONDS = 24.0, 1.0
DRAWS = 1000
KINDS = ("plain", "again", "named")  # served models, by names of the same length: unmarked, the same again, marked
MARK = (
    ("unmarked / itself (control)", "again", "direct"),
    ("marked / unmarked", "marked", "direct"),
    ("another server / the first (control)", "other", "direct"),
)
GATEWAY = (
    ("through a bare Envoy / direct", "Envoy", "direct"),
    ("through HAProxy / direct", "HAProxy", "direct"),
    ("through the gateway / direct", "gateway", "direct"),
    ("through the gateway / a bare Envoy", "gateway", "Envoy"),
)
HAPROXY = """
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen grpc
  bind {address} proto h2
  http-reuse always
  server behind {upstream} proto h2
"""
ENVOY = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: {host}, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: clients
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: model, timeout: 0s}}}}]}}
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: model
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: model
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {upstream_host}, port_value: {upstream_port}}}}}}}
"""
WARM_UP_S = 1.0
SETTLE_S = 0.4  # Envoy sends copies every 0.2 s
START_S = 10.0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"measure {QUICK_SECONDS:g} second of each side")
    parser.add_argument("--seconds", type=float, help=f"seconds of each side of each comparison (default {SECONDS:g})")
    parser.add_argument("--clients", type=int, nargs="+", choices=ROUND_S, default=[*ROUND_S], help="how many ask")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], help="which are asked")
    parser.add_argument("--tie-margin", type=float, default=DEFAULT_TIE_MARGIN, help="of the mark; 0: no tie channel")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    print(
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    )
    key = dm.MarkKey(bytes(range(32)), "benchmark")
    figures: list[dict[str, Any]] = [table_memory(key)]
    for name in options.models:
        make, comparisons = MODELS[name]
        wanted = {side for _, *pair in comparisons for side in pair}
        model = make()
        with tempfile.TemporaryDirectory() as root, sides(Path(root), model, key, options.tie_margin, wanted) as asked:
            for clients in options.clients:
                blocks = asyncio.run(alternate(asked, clients, seconds))
                for title, other, base in comparisons:
                    if other in blocks:
                        figures.append(report(f"{model.name}, {title}", clients, blocks[base], blocks[other]))
                figures += [report_costs(model.name, clients, asked[side], blocks[side]) for side in blocks]
    if options.out:
        result_file.write(options.out, {"format": 2, "figures": figures})


def mobilenet() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.applications.MobileNetV2(weights=None, classes=1000, name="MobileNetV2")


def tiny() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="inputs"),
            layers.Conv2D(8, 3, activation="relu", strides=2),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ],
        name="tiny_CNN",
    )


def wide() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((224, 224, 3), name="inputs"),
            layers.AveragePooling2D(32),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ],
        name="wide",
    )


MODELS = {"MobileNetV2": (mobilenet, MARK), "tiny_CNN": (tiny, MARK + GATEWAY), "wide": (wide, GATEWAY)}


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: its name.
        served: what is asked.
        request: a serialized request.
    """

    name: str
    served: Served
    request: bytes


@contextlib.contextmanager
def sides(
    root: Path, model: keras.Model, key: dm.MarkKey, tie_margin: float, wanted: set[str]
) -> Iterator[dict[str, Side]]:
    """Serves the model unmarked, twice, and marked, by two servers and behind proxies; yields what was wanted."""
    for kind, exported in zip(KINDS, (model, model, dm.mark(model, key, tie_margin=tie_margin)), strict=True):
        dm.export_saved_model(exported, root / kind / "1")
    config = root / "models.config"
    models = "".join(
        f'config {{ name: "{kind}" base_path: "{root / kind}" model_platform: "tensorflow" }}\n' for kind in KINDS
    )
    config.write_text(f"model_config_list {{\n{models}}}\n")
    plain, again, marked = (request_for(model, kind) for kind in KINDS)
    serve = ("serve", "--model-config-file", str(config))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(run(*serve))
        found = {"direct": (server, plain), "again": (server, again), "marked": (server, marked)}
        if "other" in wanted:
            found["other"] = (stack.enter_context(run(*serve)), plain)
        if "gateway" in wanted:
            behind = ("--upstream", server.grpc, "--upstream-rest", server.rest)
            logging = ("--log-dir", str(root / "logs"), "--threads", "1")
            found["gateway"] = (stack.enter_context(run("proxy", *behind, *logging)), plain)
        if "Envoy" in wanted:
            found["Envoy"] = (stack.enter_context(bare_envoy(server.grpc, root / "envoy.yaml")), plain)
        if "HAProxy" in wanted and shutil.which("haproxy"):
            found["HAProxy"] = (stack.enter_context(haproxy(server.grpc, root / "haproxy.cfg")), plain)
        yield {name: Side(name, *side) for name, side in found.items() if name in wanted}
    if "gateway" in found:
        print(f"gateway before {model.name}: {found['gateway'][0].last_line}", flush=True)


def bare_envoy(upstream: str, config: Path) -> contextlib.AbstractContextManager[Served]:
    """Runs an Envoy that does nothing but pass gRPC on to a server."""
    address = free_address()
    (host, _, port), (upstream_host, _, upstream_port) = (each.rpartition(":") for each in (address, upstream))
    text = ENVOY.format(host=host, port=port, upstream_host=upstream_host, upstream_port=upstream_port)
    config.write_text(text)
    words = ("--config-path", str(config), "--disable-hot-restart", "--log-level", "error", "--concurrency", "1")
    return program([str(find_envoy()), *words], address)


def haproxy(upstream: str, config: Path) -> contextlib.AbstractContextManager[Served]:
    """Runs HAProxy before a gRPC server."""
    address = free_address()
    config.write_text(HAPROXY.format(address=address, upstream=upstream))
    return program(["haproxy", "-f", str(config), "-db"], address)


def free_address() -> str:
    """An address that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextlib.contextmanager
def program(command: list[str], address: str) -> Iterator[Served]:
    """Runs a program that listens on an address."""
    with subprocess.Popen(command, text=True) as process:
        try:
            deadline = time.monotonic() + START_S
            while not _is_open(address):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{command[0]} did not start; see above")
                time.sleep(0.05)
            yield Served(process, address)
        finally:
            process.terminate()


def _is_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def request_for(model: keras.Model, name: str) -> bytes:
    """A serialized request, by the name that the model is served by, with one image of random numbers."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    image = np.random.default_rng(0).random((1, *model.input_shape[1:]), np.float32)
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto(image))
    return bytes(request.SerializeToString())


async def alternate(asked: dict[str, Side], clients: int, seconds: float) -> dict[str, list[Block]]:
    """Asks all sides in turn, each for `seconds` in all; each round begins with another one."""
    for side in asked.values():
        await ask(side.served.grpc, side.request, clients=clients, seconds=min(WARM_UP_S, seconds))
    await asyncio.sleep(SETTLE_S)
    blocks: dict[str, list[Block]] = {name: [] for name in asked}
    order = [*asked.values()]
    for _ in range(max(1, round(seconds / ROUND_S[clients]))):
        for side in order:
            processes = side.served.processes
            before = {name: process.cpu_seconds() for name, process in processes.items()}
            block = await ask(side.served.grpc, side.request, clients=clients, seconds=ROUND_S[clients])
            if "collector" in processes:
                await asyncio.sleep(SETTLE_S)
            block.cpu = {name: process.cpu_seconds() - before[name] for name, process in processes.items()}
            blocks[side.name].append(block)
        order.append(order.pop(0))
    return blocks


def report(title: str, clients: int, base: list[Block], other: list[Block]) -> dict[str, Any]:
    """Prints a comparison, and returns its figures."""
    throughput, p99 = with_interval(throughput_ratio, base, other), with_interval(p99_ratio, base, other)
    figures: dict[str, Any] = {
        "comparison": title,
        "clients": clients,
        "throughput_ratio": throughput[0],
        "throughput_ratio_90": throughput[1:],
        "p99_ratio": p99[0],
        "p99_ratio_90": p99[1:],
        "per_second": [round(statistics.median(block.rate for block in side), 1) for side in (base, other)],
        "p99_ms": [round(1000 * p99_of(side), 2) for side in (base, other)],
        "rounds": len(base),
        "answers": [sum(len(block.latencies) for block in side) for side in (base, other)],
        "errors": sum(block.errors for block in base + other),
    }
    rate, slowest = figures["per_second"], figures["p99_ms"]
    print(
        f"{title:<42} {clients:>3} clients: throughput {throughput[0]:.3f} ({throughput[1]:.2f}-{throughput[2]:.2f}; "
        f"{rate[1]:g} and {rate[0]:g} a second), p99 {p99[0]:.3f} ({p99[1]:.2f}-{p99[2]:.2f}; {slowest[1]:g} and "
        f"{slowest[0]:g} ms), {figures['errors']} errors",
        flush=True,
    )
    return figures


def report_costs(model: str, clients: int, side: Side, blocks: list[Block]) -> dict[str, Any]:
    """Prints and returns what each process of a side costs: microseconds of the processor an answer, and memory."""
    answers = max(1, sum(len(block.latencies) for block in blocks))
    figures: dict[str, Any] = {"side": f"{model}, {side.name}", "clients": clients, "answers": answers}
    for name, process in side.served.processes.items():
        microseconds = 1e6 * sum(block.cpu[name] for block in blocks) / answers
        figures[name] = {"microseconds": round(microseconds, 1), "bytes": process.resident_bytes()}
        print(
            f"{model}, {side.name}: {name} {microseconds:.0f} us an answer at {clients} clients, "
            f"{process.resident_bytes() / 2**20:.0f} MiB",
            flush=True,
        )
    return figures


def throughput_ratio(base: list[Block], other: list[Block]) -> float:
    """Median over rounds of the ratio of throughputs."""
    return statistics.median(b.rate / a.rate for a, b in zip(base, other, strict=True))


def p99_ratio(base: list[Block], other: list[Block]) -> float:
    """Ratio of the 99th percentiles of all answers of each side."""
    return p99_of(other) / p99_of(base)


def p99_of(side: list[Block]) -> float:
    """Seconds within which 99 of 100 answers came."""
    return float(np.quantile(np.concatenate([block.latencies for block in side]), 0.99))


def with_interval(
    ratio: Callable[[list[Block], list[Block]], float], base: list[Block], other: list[Block]
) -> list[float]:
    """A ratio, and its 5 and 95 % quantiles over resampled rounds."""
    rng = np.random.default_rng(0)
    draws = [
        ratio([base[i] for i in chosen], [other[i] for i in chosen])
        for chosen in rng.integers(len(base), size=(DRAWS, len(base)))
    ]
    return [round(float(value), 3) for value in (ratio(base, other), *np.quantile(draws, (0.05, 0.95)))]


def table_memory(key: dm.MarkKey) -> dict[str, Any]:
    """Prints and returns the memory of the layer's tables at 1,000 classes."""
    layer = dm.DynaMarkLayer(key, tie_margin=0.5)
    layer.build((None, 1000))
    size = sum(int(np.prod(weight.shape)) * np.dtype(weight.dtype).itemsize for weight in layer.weights)
    print(f"tables of the layer, 1,000 classes: {size / 1e6:.2f} MB")
    return {"comparison": "tables of the layer, 1,000 classes", "bytes": size}


if __name__ == "__main__":
    main()
