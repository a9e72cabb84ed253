"""24 models that learned nothing from an owner's marked answers: six architectures times four kinds of training.

One company trains an owner model on one half of Fashion-MNIST and marks it with a key of its own. The models learn the
other half: from true labels; from the answers of the unmarked owner model; from its answers marked with that key; and
from the labels of those. They are independent of every other key, and of every other owner model.

Training takes about a minute each. `calibration.py` and `baselines/study.py` share them if both are given one folder,
which keeps the weights.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import dynamarks_tf as dm
from benchmarks.studies import fashion_mnist
from dynamarks_tf.attacks.architectures import ARCHITECTURES as BUILDERS
from dynamarks_tf.attacks.batches import predicted
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.watermark.layer import SCHEME

SEED = 7
EPOCHS = 6
BUDGET, TIE_MARGIN = 0.05, 0.5
TRUE_LABELS = "true labels"
WAYS = (TRUE_LABELS, "unmarked answers", "another key's answers", "another key's labels")
ARCHITECTURES = ("pooled_cnn", "separable_cnn", "mlp", "resnet", "patch_mixer", "vit")

Array = Any


def numbered_key(number: int) -> dm.MarkKey:
    """A key made from a number, so that the study can be repeated; real keys are random."""
    return dm.MarkKey(hashlib.sha256(f"dynamarks calibration, key {number}".encode()).digest(), "Calibration")


def kept(path: Path | None, model: keras.Model, train: Callable[[keras.Model], Any]) -> keras.Model:
    """The model with its weights from a file, or trained, with its weights written there.

    Args:
        path: the file; `None` keeps nothing.
        model: the model, untrained.
        train: trains it in place.
    """
    if path is not None and path.exists():
        model.load_weights(path)
        return model
    train(model)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save_weights(path)
    return model


class IndependentModels:
    """The owner model of that company, and the models.

    Args:
        folder: where weights are kept; `None` trains anew.

    Attributes:
        owner: the owner model of that company.
        stolen: the images that the models were trained on.
        stolen_labels: their true classes.
    """

    def __init__(self, folder: Path | None = None) -> None:
        images = fashion_mnist.load()
        order = np.random.default_rng(SEED).permutation(len(images.x_train))
        x, y = images.x_train[order], images.y_train[order]
        half = len(x) // 2
        self._owned = x[:half], y[:half]
        self.stolen, self.stolen_labels = x[half:], y[half:]
        self._folder = folder
        self._num_classes = images.num_classes
        self.owner = self._trained("owner", "pooled_cnn", lambda: self._owned)

    def model(self, architecture: str, way: str) -> keras.Model:
        """One of the models."""
        name = f"{architecture}-{WAYS.index(way)}"
        return self._trained(name, architecture, lambda: (self.stolen, self._targets[way]))

    def references(self) -> list[keras.Model]:
        """Three never-marked models of the owner's, trained on what the owner model was trained on, or a part of it."""
        x, y = self._owned
        parts = {"pooled_cnn": slice(0, len(x) // 2), "separable_cnn": slice(None), "mlp": slice(len(x) // 2, None)}
        return [
            self._trained(f"reference-{name}", name, lambda part=part: (x[part], y[part]))  # type: ignore[misc]
            for name, part in parts.items()
        ]

    @functools.cached_property
    def _targets(self) -> dict[str, Array]:
        marked = dm.mark(self.owner, numbered_key(-1), BUDGET, tie_margin=TIE_MARGIN)
        clean, released = (predicted(model, self.stolen, batch_size=256) for model in (self.owner, marked))
        return dict(zip(WAYS, (self.stolen_labels, clean, released, released.argmax(axis=1)), strict=True))

    def _trained(self, name: str, architecture: str, data: Callable[[], tuple[Array, Array]]) -> keras.Model:
        path = None if self._folder is None else self._folder / f"independent-{SCHEME}-{SEED}-{name}.weights.h5"
        given = () if path is not None and path.exists() else data()  # before the seed is set, which decides the model
        keras.utils.set_random_seed(SEED)
        model = BUILDERS[architecture](self.stolen.shape[1:], self._num_classes)
        return kept(path, model, lambda model: train_classifier(model, *given, epochs=EPOCHS))
