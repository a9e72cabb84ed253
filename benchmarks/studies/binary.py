"""How much does one sigmoid show on other data than Fashion-MNIST? Handwritten digits and text, three seeds each.

    python benchmarks/studies/binary.py      # a few minutes; prints a table

`digits`: scikit-learn's digits, even against odd. The owner model is trained on 1,000 images; the attacker sends 20,000
mixtures of two of the other 797. `text`: windows of 25 words from the docstrings of SciPy and NumPy, which of the two;
20,000 windows are sent, others than the owner's. A surrogate is trained on the scores or on the sides of 0.5, and
`verify` tests it on what was sent.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import pkgutil
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import dynamarks_tf as dm
from dynamarks_tf.datasets import load_digits

SENT, INDEPENDENT = 20_000, 6000
Array = Any


def digits(seed: int) -> tuple[Any, ...]:
    """Owner's inputs and targets, what is sent, inputs and targets of an independent model, and a new network."""
    data = load_digits()
    x = np.concatenate([data.x_train, data.x_test]).reshape(-1, 64)
    y = np.concatenate([data.y_train, data.y_test]) % 2
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))
    own, rest = order[:1000], order[1000:]

    def mixed(count: int) -> tuple[Array, Array]:
        one, other = rng.choice(rest, count), rng.choice(rest, count)
        return (0.7 * x[one] + 0.3 * x[other]).astype(np.float32), y[one]

    def network(width: int) -> keras.Model:
        dense = keras.layers.Dense
        return keras.Sequential([keras.Input((64,)), dense(width, "relu"), dense(width, "relu"), dense(1, "sigmoid")])

    return x[own], y[own], mixed(SENT)[0], *mixed(INDEPENDENT), network


def words_of(package: str) -> list[str]:
    """All words of the docstrings of a package's public functions and classes."""
    found = {}
    module = importlib.import_module(package)
    for info in pkgutil.iter_modules(module.__path__):
        if info.name.startswith("_") or "test" in info.name:
            continue
        try:
            part = importlib.import_module(f"{package}.{info.name}")
        except ImportError:
            continue
        for name, value in inspect.getmembers(part):
            if not name.startswith("_") and (inspect.isroutine(value) or inspect.isclass(value)):
                found[inspect.getdoc(value) or ""] = None
    return " ".join(found).split()


def text(seed: int) -> tuple[Any, ...]:
    """As `digits`, of windows of words."""
    rng = np.random.default_rng(seed)
    sources = [words_of("numpy"), words_of("scipy")]

    def windows(count: int, part: slice) -> tuple[Array, Array]:
        targets = rng.integers(0, 2, count)
        found = []
        for target in targets.tolist():
            words = sources[target][int(part.start * len(sources[target])) : int(part.stop * len(sources[target]))]
            start = rng.integers(0, len(words) - 25)
            found.append(" ".join(words[start : start + 25]).encode())
        return np.array(found, object), targets

    own, sent, rest = slice(0.0, 0.3), slice(0.3, 0.8), slice(0.8, 1.0)
    x, y = windows(6000, own)

    def network(width: int) -> keras.Model:
        vectors = keras.layers.TextVectorization(8000, output_sequence_length=25)
        vectors.adapt(as_tensor(x))
        inputs = keras.Input((), dtype="string")
        hidden = keras.layers.GlobalMaxPooling1D()(keras.layers.Embedding(8000, width)(vectors(inputs)))
        hidden = keras.layers.Dense(width, "relu")(hidden)
        return keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(hidden))

    return x, y, windows(SENT, sent)[0], *windows(INDEPENDENT, rest), network


def as_tensor(inputs: Array) -> Any:
    """Inputs as Keras takes them."""
    return keras.ops.convert_to_tensor(inputs.tolist()) if inputs.dtype == object else inputs


def study(kind: str, seed: int) -> dict[str, float]:
    """log10 p of each suspect."""
    keras.utils.set_random_seed(seed)
    x, y, sent, other_x, other_y, network = {"digits": digits, "text": text}[kind](seed)

    def trained(width: int, inputs: Array, targets: Array, epochs: int) -> keras.Model:
        model = network(width)
        model.compile("adam", "binary_crossentropy")
        given = as_tensor(inputs)
        model.fit(given, targets.astype(np.float32), epochs=epochs, batch_size=64, verbose=0)
        return model

    clean = trained(64, x, y, 8)
    key = dm.MarkKey((3000 + seed).to_bytes(32, "big"), "Binary")
    marked = dm.mark(clean, key)
    given = as_tensor(sent)
    released = marked.predict(given, batch_size=512, verbose=0)
    suspects = {
        "scores stolen": trained(96, sent, released, 30),
        "sides stolen": trained(96, sent, released > 0.5, 30),
        "independent": trained(96, other_x, other_y, 8),
    }
    options = {"owner": marked, "key": key, "queries": sent, "logged": True}
    found = {name: dm.verify(model, **options).log10_p for name, model in suspects.items()}
    print(kind, seed, {name: round(value, 1) for name, value in found.items()}, flush=True)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help="repeatable  [default: 10, 11, 12]")
    options = parser.parse_args()
    print("| log10 p, the weakest of the seeds; of independent models the strongest | digits | text |\n|---|---|---|")
    rows = {kind: [study(kind, seed) for seed in options.seed or [10, 11, 12]] for kind in ("digits", "text")}
    for name in ("scores stolen", "sides stolen", "independent"):
        worst = min if name == "independent" else max
        print(f"| {name} | {' | '.join(f'{worst(row[name] for row in rows[kind]):.1f}' for kind in rows)} |")


if __name__ == "__main__":
    main()
