"""The main job, end to end, on real images: mark, serve, steal over the wire, convict."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf import _files, datasets, marking, metrics
from dynamarks_tf.attacks.extraction import query_api, train_on_labels, train_soft_label_surrogate
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.export import export_saved_model
from dynamarks_tf.key import MarkKey
from dynamarks_tf.local_server import open_server
from dynamarks_tf.params import DEFAULT_BUDGET
from dynamarks_tf.suspects import as_suspect
from dynamarks_tf.verdict import DEFAULT_ALPHA, Evidence
from dynamarks_tf.verification import verify

Array = npt.NDArray[Any]

FORMAT = "dynamarks-demo"
FORMAT_VERSION = 1
MODEL_NAME = "classifier"
NUM_SAVED_QUERIES = 2000
QUERY_COUNTS = (10, 100)
BATCH_SIZE = 128
TRAINING_STEPS = 1400


@dataclasses.dataclass(frozen=True)
class SuspectResult:
    """One line of the demo's table.

    Attributes:
        name: what the suspect is.
        path: its model file.
        is_guilty: whether it was trained on marked answers.
        accuracy: on the test images.
        evidence: the evidence for each number of queries, by that number.
    """

    name: str
    path: Path
    is_guilty: bool
    accuracy: float
    evidence: dict[int, Evidence]

    @property
    def final(self) -> Evidence:
        """The evidence with the most queries."""
        return self.evidence[max(self.evidence)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "path": str(self.path),
            "is_guilty": self.is_guilty,
            "accuracy": self.accuracy,
            "evidence": {str(count): evidence.to_dict() for count, evidence in self.evidence.items()},
        }


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        dataset: what the images were.
        cost: what marking costs the users of the API.
        suspects: one result for each suspect.
        seconds: how long it took.
        folder: where everything was left.
        command: the `dynamarks verify` command that repeats the conviction.
    """

    dataset: str
    cost: metrics.MarkCost
    suspects: tuple[SuspectResult, ...]
    seconds: float
    folder: Path
    command: str

    @property
    def as_expected(self) -> bool:
        """Whether every guilty suspect was convicted and every innocent one was not."""
        return all(suspect.final.detected(DEFAULT_ALPHA) == suspect.is_guilty for suspect in self.suspects)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "dataset": self.dataset,
            "cost": self.cost.to_dict(),
            "suspects": [suspect.to_dict() for suspect in self.suspects],
            "seconds": self.seconds,
            "command": self.command,
        }


def run_demo(
    folder: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    seed: int = 0,
    budget: float = DEFAULT_BUDGET,
    epochs: int | None = None,
    max_images: int | None = None,
    say: Callable[[str], None] = print,
    verbose: bool = True,
) -> DemoResult:
    """Marks a model, serves it, steals it over the wire and convicts the surrogate.

    Args:
        folder: an empty or new folder for key, models, queries and report. A new `dynamarks-demo` folder, if omitted.
        data: a folder with Fashion-MNIST's IDX files; see `datasets.load_images`.
        seed: seed of weights, shuffling and the choice of queries. The key is always random.
        budget: largest total variation of the mark.
        epochs: passes over the data for every model; as many as make about 1,400 steps, if omitted.
        max_images: use only so many training images; for tests.
        say: receives each line of explanation.
        verbose: whether to show progress on standard error.

    Returns:
        The result; it is also written to `report.json` in the folder.

    Raises:
        ArgumentError: the folder is not empty.
    """
    start = time.monotonic()
    out = _new_folder(folder)
    keras.utils.set_random_seed(seed)
    images = datasets.load_images(data)
    owner_x, owner_y, thief_x, thief_y = _halves(images, max_images)
    train: dict[str, Any] = {
        "epochs": epochs or -(-TRAINING_STEPS * BATCH_SIZE // len(thief_x)),
        "batch_size": BATCH_SIZE,
        "verbose": verbose,
    }
    shape, num_classes = images.x_train.shape[1:], images.num_classes
    say(f"Images: {images.name} from {images.source}; {len(owner_x)} for the owner, {len(thief_x)} for the thief.")

    clean = train_on_labels(
        owner_model(shape, num_classes), owner_x, owner_y, description="training the owner model", **train
    )
    key = MarkKey.generate(owner="Demo Owner")
    key.save(out / "owner.key")
    say(f"Key: {out / 'owner.key'}; commitment to publish now: {key.commitment}")
    marked = marking.mark(clean, key, budget)
    clean_answers, marked_answers = (_predict(model, images.x_test) for model in (clean, marked))
    cost = metrics.mark_cost(clean_answers, marked_answers, images.y_test)
    say(
        f"Marked with budget {budget}: accuracy {cost.clean_accuracy:.4f} -> {cost.marked_accuracy:.4f}, "
        f"top-1 agreement {cost.top1_agreement:.4f}, total variation mean {cost.mean_total_variation:.4f}, "
        f"max {cost.max_total_variation:.4f}"
    )
    _save_model(clean, out / "owner.keras")
    _save_model(marked, out / "marked.keras")

    surrogates = {}
    for which, served in (("marked", marked), ("unmarked", clean)):
        answers = _steal_over_the_wire(served, out / "served" / which / MODEL_NAME, thief_x, say, verbose)
        surrogates[which] = train_soft_label_surrogate(
            surrogate_model(shape, num_classes),
            thief_x,
            answers,
            description=f"training a surrogate ({which} API)",
            **train,
        )
    innocent = train_on_labels(
        surrogate_model(shape, num_classes), thief_x, thief_y, description="training an innocent model", **train
    )

    np.save(out / "queries.npy", images.x_test[:NUM_SAVED_QUERIES])
    suspects = tuple(
        _judge(name, out / file, model, is_guilty, out, key, images, seed)
        for name, file, model, is_guilty in (
            ("surrogate of the marked API", "surrogate.keras", surrogates["marked"], True),
            ("surrogate of the unmarked API", "surrogate-of-unmarked.keras", surrogates["unmarked"], False),
            ("innocent, trained on true labels", "innocent.keras", innocent, False),
        )
    )
    result = DemoResult(
        images.name, cost, suspects, time.monotonic() - start, out, _command(out, suspects[0].path, seed)
    )
    _files.write_atomically(out / "report.json", (json.dumps(result.to_dict(), indent=2) + "\n").encode())
    return result


def owner_model(input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """The owner's classifier: a plain convolutional network with two poolings."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(input_shape, name="image"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(num_classes, activation="softmax"),
        ],
        name="owner",
    )


def surrogate_model(input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """The thief's classifier, of another architecture: strided and separable convolutions with batch normalisation."""
    layers = keras.layers
    stack: list[Any] = [
        keras.Input(input_shape, name="image"),
        layers.Conv2D(24, 5, strides=2, padding="same", use_bias=False),
        layers.BatchNormalization(momentum=0.9),
        layers.ReLU(),
    ]
    for filters in (64, 96):
        stack += [
            layers.SeparableConv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
        ]
        stack += [layers.MaxPooling2D(padding="same")] if filters == 64 else []
    return keras.Sequential(
        [*stack, layers.Flatten(), layers.Dense(num_classes, activation="softmax")], name="surrogate"
    )


def _steal_over_the_wire(
    model: keras.Model, folder: Path, inputs: Array, say: Callable[[str], None], verbose: bool
) -> Array:
    export_saved_model(model, folder / "1")
    with open_server(folder, grpc_port=0, rest_port=0) as server:
        say(
            f"Serving {folder} by {type(server).__name__} at {server.grpc_url}; the thief queries {len(inputs)} images."
        )
        api = as_suspect(server.grpc_url)
        try:
            return query_api(api, inputs, verbose=verbose)
        finally:
            api.close()


def _judge(
    name: str,
    path: Path,
    model: keras.Model,
    is_guilty: bool,
    out: Path,
    key: MarkKey,
    images: datasets.ImageData,
    seed: int,
) -> SuspectResult:
    _save_model(model, path)
    evidence = {
        count: verify(
            path, owner=out / "owner.keras", key=key, queries=out / "queries.npy", max_queries=count, seed=seed
        )
        for count in QUERY_COUNTS
    }
    return SuspectResult(
        name, path, is_guilty, metrics.accuracy(_predict(model, images.x_test), images.y_test), evidence
    )


def _command(out: Path, suspect: Path, seed: int) -> str:
    words = [_program(), "verify", suspect, "--owner", out / "owner.keras", "--key", out / "owner.key"]
    words += ["--queries", out / "queries.npy", "--max-queries", max(QUERY_COUNTS), "--seed", seed]
    return shlex.join(str(word) for word in words)


def _program() -> str:
    """How the reader can call `dynamarks`: by the path it was called by, where it is not on PATH."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "dynamarks" and shutil.which("dynamarks") is None else "dynamarks"


def _halves(images: datasets.ImageData, max_images: int | None) -> tuple[Array, Array, Array, Array]:
    x, y = images.x_train[:max_images], images.y_train[:max_images]
    half = len(x) // 2
    return x[:half], y[:half], x[half:], y[half:]


def _predict(model: keras.Model, inputs: Array) -> Array:
    return np.asarray(model.predict(inputs, batch_size=256, verbose=0))


def _save_model(model: keras.Model, path: Path) -> None:
    with _files.new_file(path) as temporary:
        model.save(temporary)


def _new_folder(folder: str | os.PathLike[str] | None) -> Path:
    if folder is None:
        names = ["dynamarks-demo", *(f"dynamarks-demo-{number}" for number in range(2, 1000))]
        folder = next(name for name in names if not os.path.exists(name))
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ArgumentError(f"The output folder {path} is not empty. Name a new one; nothing is overwritten.")
    path.mkdir(parents=True, exist_ok=True, mode=_files.PRIVATE_FOLDER)
    return path
