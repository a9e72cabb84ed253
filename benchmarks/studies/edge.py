"""Does the mark survive on the edge? Marked models as TensorFlow Lite files, and surrogates stolen from them.

    python benchmarks/studies/edge.py             # three seeds, about 15 minutes of one core
    python benchmarks/studies/edge.py --report    # writes the table into docs/edge.md from the results

The owner model is trained on 30,000 images of Fashion-MNIST. For each way to quantize it, the study measures on the
test images:

- the accuracy of the clean model's file and of the marked one;
- how far the marked file's answers lie from the clean file's (total variation);
- how far the mark is the one that the Keras model would have put on: the share of inputs with the same hash values, the
  correlation of what was added to the answers, and the L1 distance between the two in units of the size of Keras's.

Then an attacker asks the marked file about the other 30,000 images and trains a multi-layer perceptron on the answers.
`verify` tests it; its owner model is the marked Keras model. A surrogate of the clean int8 file is the control.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import dynamarks_tf as dm
from benchmarks.seeded_study import SeededStudy
from benchmarks.studies import fashion_mnist
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.export.tflite_conversion import LiteModel
from dynamarks_tf.watermark import codebook, marking, metrics
from dynamarks_tf.watermark.layer import SCHEME

SETTINGS: dict[str, Any] = {
    "scheme": SCHEME,
    "owner": "pooled_cnn",
    "owner_images": 30000,
    "owner_epochs": 4,
    "surrogate": "mlp",
    "surrogate_epochs": 8,
    "budget": 0.05,
    "tie_margin": 0.5,
    "representative": 200,
    "fresh": [10, 100, 1000],
    "threads": 1,
}
QUANTIZATIONS = (None, "float16", "int8")
Array = Any


class LiteApi:
    """A file as an API: from images to probabilities."""

    def __init__(self, path: Path) -> None:
        self._model = LiteModel(path.read_bytes())
        (self._input,) = self._model.inputs

    def __call__(self, images: Array) -> Array:
        """Answers images, 500 at a time."""
        starts = range(0, len(images), 500)
        return np.concatenate([self._model.answer({self._input: images[start : start + 500]}) for start in starts])


def study(seed: int) -> list[dict[str, Any]]:
    """One owner model and key, and a row for each way to quantize."""
    images = fashion_mnist.load()
    half = SETTINGS["owner_images"]
    keras.utils.set_random_seed(1000 + seed)
    owner = ARCHITECTURES[SETTINGS["owner"]](images.x_train.shape[1:], images.num_classes)
    train_classifier(owner, images.x_train[:half], images.y_train[:half], epochs=SETTINGS["owner_epochs"])
    key = dm.MarkKey((2000 + seed).to_bytes(32, "big"), "Edge")
    marked = dm.mark(owner, key, SETTINGS["budget"], tie_margin=SETTINGS["tie_margin"])
    bound = key.bind(marking.find_mark(marked).model_sha256)
    keyed_hash = codebook.expand(bound, images.num_classes, dm.MarkParams()).keyed_hash
    in_keras = {name: model.predict(images.x_test, verbose=0) for name, model in (("clean", owner), ("marked", marked))}
    stolen = images.x_train[half:]

    def log10_p(api: LiteApi) -> dict[str, float]:
        keras.utils.set_random_seed(3000 + seed)
        surrogate = ARCHITECTURES[SETTINGS["surrogate"]](stolen.shape[1:], images.num_classes)
        train_classifier(surrogate, stolen, api(stolen), epochs=SETTINGS["surrogate_epochs"])
        common: dict[str, Any] = {"owner": marked, "key": key, "seed": seed}
        fresh = {
            f"{count} fresh": dm.verify(surrogate, queries=images.x_test, max_queries=count, **common).log10_p
            for count in SETTINGS["fresh"]
        }
        logged = dm.verify(
            surrogate, queries=stolen, logged=True, suspect_options=dm.SuspectOptions(batch_size=1000), **common
        )
        return {**fresh, f"{len(stolen)} logged": logged.log10_p}

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for quantize in QUANTIZATIONS:
            paths = {name: Path(folder, f"{name}-{quantize}.tflite") for name in in_keras}
            for name, model in (("clean", owner), ("marked", marked)):
                examples = images.x_train[: SETTINGS["representative"]]
                dm.export_tflite(model, paths[name], quantize=quantize, representative=examples)
            apis = {name: LiteApi(path) for name, path in paths.items()}
            answers = {name: api(images.x_test) for name, api in apis.items()}
            added, expected = (p["marked"] - p["clean"] for p in (answers, in_keras))
            hashes = [keyed_hash.hashes(p["clean"]) for p in (answers, in_keras)]
            rows.append(
                {
                    "seed": seed,
                    "quantize": quantize,
                    "bytes": {name: path.stat().st_size for name, path in paths.items()},
                    "accuracy": {name: metrics.accuracy(p, images.y_test) for name, p in answers.items()},
                    "max_total_variation": float(np.abs(added).sum(axis=1).max() / 2),
                    "same_hash": float((hashes[0] == hashes[1]).mean()),
                    "correlation": float(np.corrcoef(added.ravel(), expected.ravel())[0, 1]),
                    "l1_distance": float(np.abs(added - expected).sum() / np.abs(expected).sum()),
                    "log10_p": log10_p(apis["marked"]),
                    **({"log10_p_of_control": log10_p(apis["clean"])} if quantize == "int8" else {}),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: means over the seeds; of p-values the worst, of total variations the largest."""
    counts = list(rows[0]["log10_p"])
    lines = [
        "| file | size, clean and marked, kB | accuracy, clean and marked | same hash | correlation | L1 distance "
        f"| largest TV | log10 p: {' / '.join(counts)} |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def worst(rows: list[dict[str, Any]], name: str) -> str:
        return " / ".join(f"{max(row[name][count] for row in rows):.1f}" for count in counts)

    for quantize in QUANTIZATIONS:
        chosen = [row for row in rows if row["quantize"] == quantize]

        def mean(name: str, part: str | None = None, chosen: list[dict[str, Any]] = chosen) -> float:
            return float(np.mean([row[name] if part is None else row[name][part] for row in chosen]))

        sizes = ", ".join(f"{mean('bytes', part) / 1000:.0f}" for part in ("clean", "marked"))
        accuracies = ", ".join(f"{mean('accuracy', part):.4f}" for part in ("clean", "marked"))
        moved = max(row["max_total_variation"] for row in chosen)
        lines.append(
            f"| {quantize or 'float32'} | {sizes} | {accuracies} | {mean('same_hash'):.1%} | "
            f"{mean('correlation'):.3f} | {mean('l1_distance'):.3f} | {moved:.4f} | {worst(chosen, 'log10_p')} |"
        )
    control = [row for row in rows if "log10_p_of_control" in row]
    smallest = min(min(row["log10_p_of_control"].values()) for row in control)
    seeds = len({row["seed"] for row in rows})
    lines += [
        "",
        f"{seeds} owner models and keys. Surrogates of the *clean* int8 files: smallest log10 p {smallest:.1f}.",
    ]
    return "\n".join(lines) + "\n"


STUDY = SeededStudy(
    __file__, "edge.md", SETTINGS, study, table, seeds=(0, 1, 2), version=2, threads=SETTINGS["threads"]
)

if __name__ == "__main__":
    STUDY.main(__doc__)
