"""The cost of the mark at inference, as ratios measured in one run.

    python benchmarks/performance/layer_overhead.py             # the layer alone, and on a MobileNetV2
    python benchmarks/performance/layer_overhead.py --served    # also through the local server
    python benchmarks/performance/layer_overhead.py --tie-margin 0    # without the tie channel

The layer is compared with a softmax over the same tensor, the marked MobileNetV2 (random weights, 1,000 classes) with
the unmarked one. Both sides alternate; each ratio is the median of the pairwise ratios of many rounds.
"""

from __future__ import annotations

import argparse
import collections
import functools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import dynamarks_tf as dm
from dynamarks_tf.watermark import codebook, lookups, perturbation
from dynamarks_tf.watermark.params import DEFAULT_TIE_MARGIN

FREE = {"Const", "Identity", "NoOp", "VarHandleOp", "ReadVariableOp"}
SHAPES = ((1, 1000), (256, 10), (256, 100), (256, 1000))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--served", action="store_true", help="also measure through the local server")
    parser.add_argument("--rounds", type=int, default=60, help="rounds of each comparison (default 60)")
    parser.add_argument("--tie-margin", type=float, default=DEFAULT_TIE_MARGIN, help="of the mark; 0: no tie channel")
    arguments = parser.parse_args()
    key = dm.MarkKey(bytes(range(32)), "benchmark")
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {os.cpu_count()} CPUs")
    for num_classes in (10, 1000):
        operations(key, arguments.tie_margin, num_classes)
    passes(key, arguments.tie_margin)
    parts(key, arguments.tie_margin, arguments.rounds)
    for shape in SHAPES:
        for is_compiled in (False, True):
            layer_alone(shape, dm.DynaMarkLayer(key, tie_margin=arguments.tie_margin), is_compiled, arguments.rounds)
    mobilenet(key, arguments.tie_margin, arguments.rounds, arguments.served)


def operations(key: dm.MarkKey, tie_margin: float, num_classes: int) -> None:
    """Prints how many operations TensorFlow runs for the mark, without reads of variables and constants."""
    inputs = keras.Input((num_classes,))
    clean = keras.Model(inputs, keras.layers.Softmax()(inputs))
    counts = []
    for model in (dm.mark(clean, key, tie_margin=tie_margin), clean):
        with tempfile.TemporaryDirectory() as root:
            dm.export_saved_model(model, Path(root) / "1")
            with tf.Graph().as_default(), tf.compat.v1.Session() as session:
                meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(Path(root) / "1"))
                ((_, given),) = meta.signature_def["serving_default"].inputs.items()
                ((_, answer),) = meta.signature_def["serving_default"].outputs.items()
                seen = tf.compat.v1.RunMetadata()
                options = tf.compat.v1.RunOptions(output_partition_graphs=True)
                session.run(answer.name, {given.name: np.ones((1, num_classes)) / num_classes}, options, seen)
        counts.append(sum(node.op not in FREE for part in seen.partition_graphs for node in part.node))
    print(f"operations of the mark, {num_classes} classes: {counts[0] - counts[1]}")


def passes(key: dm.MarkKey, tie_margin: float) -> None:
    """Prints how often the layer reads and writes a whole batch, and which operations do, in graph mode."""
    shape = SHAPES[-1]
    layer = dm.DynaMarkLayer(key, tie_margin=tie_margin)
    layer.build((None, shape[1]))
    graph = tf.function(layer).get_concrete_function(tf.TensorSpec(shape, tf.float32)).graph
    read: collections.Counter[str] = collections.Counter()
    written: collections.Counter[str] = collections.Counter()
    for operation in graph.get_operations():
        if operation.type not in FREE:
            read[operation.type] += sum(each.shape.num_elements() == math.prod(shape) for each in operation.inputs)
            written[operation.type] += sum(each.shape.num_elements() == math.prod(shape) for each in operation.outputs)
    print(
        f"whole batches of {shape}, {math.prod(shape) * 4 / 2**20:.1f} MiB each: {read.total()} read, "
        f"{written.total()} written: {', '.join(f'{name} {read[name]}+{written[name]}' for name in read + written)}"
    )


def parts(key: dm.MarkKey, tie_margin: float, rounds: int) -> None:
    """Prints what the layer's time is spent on, in graph mode: how much longer it takes with each part."""
    shape = SHAPES[-1]
    layer = dm.DynaMarkLayer(key, tie_margin=tie_margin)
    layer.build((None, shape[1]))
    found = lookups.tables_from(codebook.expand(key, shape[1], layer.params), layer.params)
    tables = {name: tf.constant(table) for name, table in found.items()}

    def looked_up(p: Any) -> Any:
        secret = perturbation.find_secret(p, perturbation.best_two(p), tables, layer.params)
        return tf.concat(list(secret.values.values()), axis=-1) if secret is not None else p

    up_to: dict[str, Callable[[Any], Any]] = {
        "call": lambda p: p[:, :1] * 2.0,
        "two best classes": lambda p: perturbation.best_two(p).classes,
        "hash and look-up": looked_up,
        "ties, favored set, mixture": lambda p: layer(p),
    }
    p = tf.nn.softmax(3 * tf.random.stateless_normal(shape, (1, 2)))
    calls = [functools.partial(tf.function(function), p) for function in up_to.values()]
    for call in calls:
        seconds(call, 3)
    times = np.median([[seconds(call, 20) for call in calls] for _ in range(rounds)], axis=0) / 20
    shares = np.diff(times, prepend=0) / times[-1]
    print(f"parts of {shape}, graph: {', '.join(f'{n} {s:.0%}' for n, s in zip(up_to, shares, strict=True))}")


def layer_alone(shape: tuple[int, int], layer: dm.DynaMarkLayer, is_compiled: bool, rounds: int) -> None:
    """The layer against a softmax over the same tensor."""
    layer.build((None, shape[1]))
    p = tf.nn.softmax(3 * tf.random.stateless_normal(shape, (1, 2)))
    # Wrapped alike: TensorFlow spends longer on calls of functions with optional arguments.
    marked = tf.function(lambda x: layer(x), jit_compile=is_compiled)
    softmax = tf.function(lambda x: tf.nn.softmax(x), jit_compile=is_compiled)
    mode = "XLA" if is_compiled else "graph"
    report(f"layer / softmax {shape}, {mode}", lambda: marked(p), lambda: softmax(p), rounds, 20)


def mobilenet(key: dm.MarkKey, tie_margin: float, rounds: int, served: bool) -> None:
    """A marked MobileNetV2 against the unmarked one."""
    keras.utils.set_random_seed(0)
    clean = keras.applications.MobileNetV2(weights=None, classes=1000)
    marked = dm.mark(clean, key, tie_margin=tie_margin)
    functions = [tf.function(model, reduce_retracing=True) for model in (marked, clean)]
    for batch in (1, 32):
        x = tf.random.stateless_uniform((batch, 224, 224, 3), (3, 4))
        calls = [functools.partial(function, x, training=False) for function in functions]
        report(f"marked / clean MobileNetV2, batch {batch}, called directly", *calls, rounds, 1)
    if served:
        through_the_server(marked, clean, rounds)


def through_the_server(marked: keras.Model, clean: keras.Model, rounds: int) -> None:
    """The same two models, each behind its own local server, asked over gRPC."""
    from dynamarks_tf.serving.local_server import LocalServer
    from dynamarks_tf.suspects import as_suspect

    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / name for name in ("marked", "clean")]
        for model, folder in zip((marked, clean), folders, strict=True):
            dm.export_saved_model(model, folder / "1")
        with (
            LocalServer(folders[0], grpc_port=0, rest_port=None) as first,
            LocalServer(folders[1], grpc_port=0, rest_port=None) as second,
        ):
            clients = [as_suspect(server.grpc_url) for server in (first, second)]
            for batch in (1, 32):
                x = np.random.default_rng(0).random((batch, 224, 224, 3), np.float32)
                calls = [functools.partial(client.predict, x) for client in clients]
                report(f"marked / clean MobileNetV2, batch {batch}, through the server", *calls, rounds, 1)


def report(title: str, one: Callable[[], Any], other: Callable[[], Any], rounds: int, calls: int) -> None:
    """Prints the median pairwise ratio of the times of `one` and `other`, `calls` calls a round, in turn."""
    for function in (one, other):
        for _ in range(3):
            function()
    times = [(seconds(one, calls), seconds(other, calls)) for _ in range(rounds)]
    ratios = sorted(a / b for a, b in times)
    low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
    medians = [statistics.median(column) / calls * 1e6 for column in zip(*times, strict=True)]
    print(
        f"{title:<62} {statistics.median(ratios):.3f}  (10-90 %: {low:.3f}-{high:.3f}; {medians[0]:.0f} and "
        f"{medians[1]:.0f} us)",
        flush=True,
    )


def seconds(function: Callable[[], Any], calls: int) -> float:
    """Seconds that `calls` calls take."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
