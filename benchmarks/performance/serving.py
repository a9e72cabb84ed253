"""The cost of the mark and of the proxy for clients: throughput and 99th percentile of latency, as ratios of one run.

    python benchmarks/performance/serving.py            # about 20 minutes, on a quiet machine
    python benchmarks/performance/serving.py --quick    # two or three minutes: a check that it works, not of speed

A MobileNetV2 (random weights, 1,000 classes, one image a request) and a tiny CNN (10 classes) are served marked and
unmarked by one local server: two processes that do the same can differ by a tenth for as long as they live. A proxy
that logs stands before the server, and beside it HAProxy, where it is installed; HAProxy passes HTTP/2 on and logs
nothing.

There are two controls: the unmarked model served twice, and a second server that does the same as the first.
Differences there come from the machine. 1, 8 and 64 clients, in this process, ask over gRPC.

The two sides of each comparison alternate in short rounds, so that both meet the same state of the machine. The ratio
of throughputs is the median over rounds, the ratio of latencies that of all answers of each side. In brackets: 90 %
intervals, by resampling rounds (Efron, Bootstrap methods, 1979). Also: the memory of the layer's tables.
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
from benchmarks.performance.load import Block, ask, run
from dynamarks_tf.watermark.params import DEFAULT_TIE_MARGIN

ROUND_S = {1: 0.5, 8: 0.5, 64: 2.0}  # by number of clients; 64 of them wait for each other
SECONDS, QUICK_SECONDS = 24.0, 2.0
DRAWS = 1000
KINDS = ("plain", "again", "named")  # served models, by names of the same length: unmarked, the same again, marked
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
WARM_UP_S = 1.0
START_S = 10.0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"measure {QUICK_SECONDS:g} seconds of each side")
    parser.add_argument("--seconds", type=float, help=f"seconds of each side of each comparison (default {SECONDS:g})")
    parser.add_argument("--tie-margin", type=float, default=DEFAULT_TIE_MARGIN, help="of the mark; 0: no tie channel")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    print(
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    )
    key = dm.MarkKey(bytes(range(32)), "benchmark")
    figures: list[dict[str, Any]] = [table_memory(key)]
    for model in (mobilenet(), tiny()):
        with tempfile.TemporaryDirectory() as root, servers(Path(root), model, key, options.tie_margin) as addresses:
            plain, again, marked = (request_for(model, kind) for kind in KINDS)
            direct = Side(addresses["direct"], plain)
            comparisons = {
                "unmarked / itself (control)": Side(addresses["direct"], again),
                "marked / unmarked": Side(addresses["direct"], marked),
                "another server / the first (control)": Side(addresses["other"], plain),
                "through the proxy / direct": Side(addresses["proxy"], plain),
            }
            if "haproxy" in addresses:
                comparisons["through HAProxy / direct"] = Side(addresses["haproxy"], plain)
            for name, other in comparisons.items():
                for clients in ROUND_S:
                    sides = asyncio.run(alternate(direct, other, clients, seconds))
                    figures.append(report(f"{model.name}, {name}", clients, *sides))
    if options.out:
        result_file.write(options.out, {"format": 1, "figures": figures})


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


@contextlib.contextmanager
def servers(root: Path, model: keras.Model, key: dm.MarkKey, tie_margin: float) -> Iterator[dict[str, str]]:
    """Serves the model unmarked, twice, and marked, by two servers and behind a proxy; yields their addresses."""
    for kind, exported in zip(KINDS, (model, model, dm.mark(model, key, tie_margin=tie_margin)), strict=True):
        dm.export_saved_model(exported, root / kind / "1")
    config = root / "models.config"
    models = "".join(
        f'config {{ name: "{kind}" base_path: "{root / kind}" model_platform: "tensorflow" }}\n' for kind in KINDS
    )
    config.write_text(f"model_config_list {{\n{models}}}\n")
    with contextlib.ExitStack() as stack:
        words = ("serve", "--model-config-file", str(config))
        running = {name: stack.enter_context(run(*words)) for name in ("direct", "other")}
        upstream = running["direct"]
        words = ("--upstream", upstream.grpc, "--upstream-rest", upstream.rest, "--log-dir", str(root / "logs"))
        running["proxy"] = stack.enter_context(run("proxy", *words))
        addresses = {kind: served.grpc for kind, served in running.items()}
        if shutil.which("haproxy"):
            addresses["haproxy"] = stack.enter_context(haproxy(upstream.grpc, root / "haproxy.cfg"))
        yield addresses
    print(f"proxy before {model.name}: {running['proxy'].last_line}", flush=True)


@contextlib.contextmanager
def haproxy(upstream: str, config: Path) -> Iterator[str]:
    """Runs HAProxy, one thread as our proxy has, before a gRPC server; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config.write_text(HAPROXY.format(address=address, upstream=upstream))
    with subprocess.Popen(["haproxy", "-f", str(config), "-db"]) as process:
        deadline = time.monotonic() + START_S
        while not _is_open(address):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise SystemExit("HAProxy did not start; see above")
            time.sleep(0.05)
        try:
            yield address
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


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        address: `host:port` of the server.
        request: a serialized request.
    """

    address: str
    request: bytes


async def alternate(base: Side, other: Side, clients: int, seconds: float) -> tuple[list[Block], list[Block]]:
    """Asks two sides in turn, each for `seconds` in all; each begins every other round."""
    for side in (base, other):
        await ask(side.address, side.request, clients=clients, seconds=min(WARM_UP_S, seconds))
    blocks: dict[Side, list[Block]] = {base: [], other: []}
    for index in range(max(1, round(seconds / ROUND_S[clients]))):
        for side in (base, other) if index % 2 else (other, base):
            blocks[side].append(await ask(side.address, side.request, clients=clients, seconds=ROUND_S[clients]))
    return blocks[base], blocks[other]


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
