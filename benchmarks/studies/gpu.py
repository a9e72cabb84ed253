"""Does a GPU give an input the same secret sign as a processor does, and what does the mark cost there? On JAX.

    KERAS_BACKEND=jax python benchmarks/studies/gpu.py             # with JAX's package for the GPU at hand

The owner model and its marked copy answer Fashion-MNIST's 10,000 test images on the GPU. The reference is the same
model on the processor of the same machine. Products of matrices and convolutions are computed in full single precision
and in TensorFloat-32, the default of JAX and TensorFlow on recent GPUs. The last line gives the mark alone the
processor's probabilities: differences there come from the mark.

The cost is the time of an answer, marked over unmarked, of a MobileNetV2 with 1,000 classes (random weights): the
median of turns that alternate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import keras
import numpy as np

import dynamarks_tf as dm
from benchmarks import result_file
from benchmarks.studies.hash_stability import SEED, SINGLE, compared, in_batches, models
from dynamarks_tf.verification.provenance import package_versions

RESULTS = Path(__file__).parent / "results" / "gpu.json"
BATCHES = (1, 64)
TURNS, CALLS = 15, 20

Answer = Callable[[Any], Any]


def on(device: Any, model: keras.Model, precision: str) -> Answer:
    """The model as a function of a batch on a device, with products of a precision by its name in JAX."""
    trained, fixed = (
        jax.device_put([variable.value for variable in variables], device)
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )
    call = jax.jit(lambda t, f, x: model.stateless_call(t, f, x, training=False)[0])

    def answer(batch: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return call(trained, fixed, jax.device_put(batch, device))

    return answer


def stability(gpu: Any, cpu: Any) -> dict[str, dict[str, float]]:
    """Trains and marks the model, and compares the answers of GPU and processor."""
    owner, marked, keyed_hash, x = models()
    clean, released = (in_batches(on(cpu, model, "highest"), x, 256) for model in (owner, marked))
    rows = {}
    for name, precision in (("float32", "highest"), ("TensorFloat-32", "default")):
        for size, n, words in ((256, len(x), "batches of 256"), (1, SINGLE, "one by one")):
            way = f"GPU, {name}, {words}"
            one, other = (in_batches(on(gpu, model, precision), x[:n], size) for model in (owner, marked))
            rows[way] = compared(way, keyed_hash, clean, released, (one, other))
    inputs = keras.Input(clean.shape[1:])
    mark = keras.Model(inputs, marked.layers[-1](inputs))
    way = "the mark alone, TensorFloat-32"
    alone = in_batches(on(gpu, mark, "default"), clean, 256)
    rows[way] = compared(way, keyed_hash, clean, released, (clean, alone))
    return rows


def cost(gpu: Any) -> dict[str, dict[str, float]]:
    """Milliseconds of an answer, unmarked and marked."""
    keras.utils.set_random_seed(SEED)
    model = keras.applications.MobileNetV2(weights=None, classes=1000)
    marked = dm.mark(model, dm.MarkKey(bytes(range(32)), "Cost"), 0.05, tie_margin=0.5)
    sides = [on(gpu, each, "default") for each in (model, marked)]
    rows = {}
    for size in BATCHES:
        batch = jax.device_put(np.random.default_rng(0).random((size, 224, 224, 3), np.float32), gpu)
        times: list[list[float]] = [[], []]
        for side in sides:
            jax.block_until_ready(side(batch))  # compiles
        for _ in range(TURNS):
            for side, taken in zip(sides, times, strict=True):
                start = time.perf_counter()
                for _ in range(CALLS):
                    jax.block_until_ready(side(batch))
                taken.append(1e3 * (time.perf_counter() - start) / CALLS)
        ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
        plain, with_mark = map(statistics.median, times)
        rows[f"batch of {size}"] = {"ratio": ratio, "unmarked ms": plain, "marked ms": with_mark}
        print(f"MobileNetV2, batch of {size}: {plain:.3f} ms, marked {with_mark:.3f} ms, ratio {ratio:.3f}", flush=True)
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    options = parser.parse_args()
    if keras.backend.backend() != "jax":
        raise SystemExit("This study needs KERAS_BACKEND=jax.")
    gpu, cpu = jax.devices()[0], jax.devices("cpu")[0]
    print(f"JAX {jax.__version__}, {gpu.device_kind}")
    if gpu.platform == "cpu":
        print("No GPU: processor against processor.")
    content = {
        "format": "dynamarks-study",
        "version": 2,
        "device": gpu.device_kind,
        "versions": {**package_versions(), "jax": jax.__version__},
        "stability": stability(gpu, cpu),
        "cost": cost(gpu),
    }
    result_file.write(options.out, content)


if __name__ == "__main__":
    main()
