"""How often does float noise give an input another secret sign? The evidence tolerates 0.5 %.

    python benchmarks/studies/hash_stability.py

For an owner model on Fashion-MNIST and its 10,000 test images, computed in another way than by Keras in batches of 256:

- the share of inputs that get another hash value, and so other secret signs in the hashed channels;
- the share of released answers that differ visibly (by more than 0.001) from those of the marked Keras model, for want
  of the same secret sign.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import dynamarks_tf as dm
from benchmarks import result_file
from benchmarks.studies import fashion_mnist
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.export.tflite_conversion import LiteModel
from dynamarks_tf.verification.provenance import package_versions
from dynamarks_tf.watermark import codebook, marking
from dynamarks_tf.watermark.keyed_hash import KeyedHash

RESULTS = Path(__file__).parent / "results" / "hash-stability.json"
SEED, EPOCHS, SINGLE = 11, 6, 2000
VISIBLE = 1e-3


def in_batches(answer: Any, x: Any, batch_size: int) -> Any:
    """Answers of shape `(n, C)`, with `batch_size` inputs at a time."""
    return np.concatenate([np.asarray(answer(x[i : i + batch_size])) for i in range(0, len(x), batch_size)])


def as_tflite(model: keras.Model, path: str, quantize: str | None) -> Any:
    """The model as a function of a batch, exported to TensorFlow Lite and run by its interpreter."""
    lite = LiteModel(dm.export_tflite(model, path, quantize=quantize).read_bytes())
    (name,) = lite.inputs
    return lambda batch: lite.answer({name: batch})


def models() -> tuple[keras.Model, keras.Model, KeyedHash, Any]:
    """An owner model on Fashion-MNIST, its marked copy, the keyed hash of its outputs, and the test images."""
    images = fashion_mnist.load()
    keras.utils.set_random_seed(SEED)
    owner = ARCHITECTURES["pooled_cnn"](images.x_train.shape[1:], images.num_classes)
    train_classifier(owner, images.x_train[:30000], images.y_train[:30000], epochs=EPOCHS)
    key = dm.MarkKey(bytes(range(32)), "Stability")
    marked = dm.mark(owner, key, 0.05, tie_margin=0.5)
    bound = key.bind(marking.find_mark(marked).model_sha256)
    return owner, marked, codebook.expand(bound, images.num_classes, dm.MarkParams()).keyed_hash, images.x_test


def compared(way: str, keyed_hash: KeyedHash, clean: Any, released: Any, answers: tuple[Any, Any]) -> dict[str, float]:
    """Compares `answers`, of clean and marked model, with the reference; prints and returns the shares that differ."""
    n = len(answers[0])
    is_other = keyed_hash.hashes(answers[0]) != keyed_hash.hashes(clean[:n])
    visible = np.abs(answers[1] - released[:n]).max(axis=1) > VISIBLE
    print(f"{way:34} {n:6} inputs: {is_other.mean():.3%} other hash, {visible.mean():.3%} other answer", flush=True)
    return {"inputs": n, "other hash": float(is_other.mean()), "other answer": float(visible.mean())}


def main() -> None:
    """Command line: trains and exports the models, and compares their answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    options = parser.parse_args()
    owner, marked, keyed_hash, x = models()
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ways, loaded = {}, []
        for name, model in (("clean", owner), ("marked", marked)):
            compiled = tf.function(lambda b, model=model: model(b, training=False), jit_compile=True, autograph=False)
            model.export(f"{folder}/{name}", verbose=False)
            loaded.append(tf.saved_model.load(f"{folder}/{name}"))  # its function does not keep it alive
            served = loaded[-1].serve
            ways[name] = {
                "Keras, batches of 256": (model, 256, len(x)),
                "Keras, one by one": (model, 1, SINGLE),
                "XLA, batches of 256": (compiled, 256, 9984),
                "SavedModel, batches of 256": (served, 256, len(x)),
                "SavedModel, one by one": (served, 1, SINGLE),
                "TFLite float32": (as_tflite(model, f"{folder}/{name}-32.tflite", None), 1, SINGLE),
                "TFLite float16": (as_tflite(model, f"{folder}/{name}-16.tflite", "float16"), 1, SINGLE),
            }
        reference = {name: in_batches(ways[name]["Keras, batches of 256"][0], x, 256) for name in ways}
        for way in list(ways["clean"])[1:]:
            clean, released = (in_batches(ways[n][way][0], x[: ways[n][way][2]], ways[n][way][1]) for n in ways)
            rows[way] = compared(way, keyed_hash, reference["clean"], reference["marked"], (clean, released))
    content = {"format": "dynamarks-study", "version": 2, "versions": package_versions(), "rows": rows}
    result_file.write(options.out, content)


if __name__ == "__main__":
    main()
