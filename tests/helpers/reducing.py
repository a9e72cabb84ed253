"""A small marked model, and logs of requests to it as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import dynamarks_tf as dm

CLASSES, FEATURES = 6, 4


def marked_model(key: dm.MarkKey, seed: int = 0) -> Any:
    """One dense layer with a softmax, marked."""
    import keras

    keras.utils.set_random_seed(seed)
    layers = [keras.Input((FEATURES,)), keras.layers.Dense(CLASSES, "softmax", kernel_initializer="glorot_normal")]
    return dm.mark(keras.Sequential(layers), key)


def write_log(path: Path, seed: int, *, count: int = 40, start: float | None = 1000.0, step: float = 1.0) -> Path:
    """Writes a file of requests of three clients; without times if `start` is `None`."""
    rng = np.random.default_rng(seed)
    with path.open("w") as file:
        for number, rows in enumerate(rng.normal(size=(count, 2, FEATURES)).round(2).tolist()):
            request: dict[str, Any] = {"inputs": rows, "client": f"client-{number % 3}", "model": "clf", "version": 1}
            if start is not None:
                request["time"] = start + number * step
            file.write(json.dumps(request) + "\n")
    return path
