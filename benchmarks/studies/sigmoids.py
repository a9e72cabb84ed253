"""How much do sigmoids show? Thefts of models with one sigmoid, and with one for each of 10 labels.

    python benchmarks/studies/sigmoids.py             # three seeds, about 40 minutes
    python benchmarks/studies/sigmoids.py --report    # writes the table into docs/heads.md from the results

The owner model is trained on 20,000 images of Fashion-MNIST, whose 10 classes make the targets: classes 5 to 9 against
0 to 4 (`binary`), or 10 made-up properties of the classes (`labels`). An attacker sends 20,000 other images and trains
a surrogate on the scores, or on the sides of 0.5. `verify` tests it on what was sent. Two controls: the marked model
itself, and a model trained on true targets of 12,000 other images.

For the binary model the study also counts how many entries of the class hash 10,000 of these answers meet, and how many
of the 10,000 test images get another entry when they are computed in another way than in batches of 256.

The constants of the hash were fixed on models of other seeds than these. Seed 0 is one of them: it showed that a first
choice changed 0.77 % of the entries under XLA.
"""

from __future__ import annotations

import json
import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import dynamarks_tf as dm
from benchmarks import result_file
from benchmarks.seeded_study import SeededStudy
from benchmarks.studies import fashion_mnist
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.batches import batches, predicted
from dynamarks_tf.verification.owner import Owner, resolve_owner
from dynamarks_tf.watermark.keyed_hash import HASH_SIZE, KeyedHash
from dynamarks_tf.watermark.layer import SCHEME

SETTINGS: dict[str, Any] = {
    "scheme": SCHEME,
    "owner": "pooled_cnn",
    "owner_images": 20000,
    "owner_epochs": 4,
    "sent": 20000,
    "surrogate": "separable_cnn",
    "surrogate_epochs": 8,
    "independent_images": 12000,
    "batch_size": 64,
    "budget": 0.05,
    "tie_margin": 0.5,
}
KINDS = ("binary", "labels")
SUSPECTS = {
    "itself": "the marked model itself",
    "scores": "scores stolen",
    "sides": "sides of 0.5 stolen",
    "independent": "independent model",
}
# A row for each class of Fashion-MNIST, a column for each label: made up once, so that labels overlap.
LABELS = np.array([[int(digit) for digit in row] for row in (
    "1000010010", "0001000010", "1010000100", "1000101010", "1010000001",
    "0100100000", "1000011101", "0100000001", "0000001000", "0110000000",
)], np.float32)  # fmt: skip
Array = Any


def targets(kind: str, classes: Array) -> Array:
    """What a model is trained to answer for images of some classes, 0 or 1, float32 of shape `(n, L)`."""
    return LABELS[classes] if kind == "labels" else (classes >= 5).astype(np.float32)[:, None]


def trained(architecture: str, images: Array, wanted: Array, epochs: int) -> keras.Model:
    """A model with a sigmoid for each column of `wanted`, trained on it."""
    body = ARCHITECTURES[architecture](images.shape[1:], wanted.shape[1])
    inputs = x = keras.Input(images.shape[1:])
    for layer in body.layers[:-1]:
        x = layer(x)
    model = keras.Model(inputs, keras.layers.Dense(wanted.shape[1], activation="sigmoid")(x))
    model.compile("adam", "binary_crossentropy")
    data = batches(images, wanted, batch_size=SETTINGS["batch_size"], shuffled=True)
    model.fit(data, epochs=epochs, shuffle=False, verbose=0)
    return model


def study(kind: str, seed: int) -> dict[str, Any]:
    """One owner model and key, and all suspects."""
    images = fashion_mnist.load()
    keras.utils.set_random_seed(1000 + seed)
    start, stop = SETTINGS["owner_images"], SETTINGS["owner_images"] + SETTINGS["sent"]
    rest = slice(stop, stop + SETTINGS["independent_images"])
    wanted = targets(kind, images.y_train)
    clean = trained(SETTINGS["owner"], images.x_train[:start], wanted[:start], SETTINGS["owner_epochs"])
    key = dm.MarkKey((2000 + seed).to_bytes(32, "big"), "Sigmoids")
    marked = dm.mark(clean, key, SETTINGS["budget"], tie_margin=SETTINGS["tie_margin"])
    sent = images.x_train[start:stop]
    released = predicted(marked, sent, batch_size=512)

    def surrogate(images: Array, wanted: Array) -> keras.Model:
        keras.utils.set_random_seed(3000 + seed)
        return trained(SETTINGS["surrogate"], images, wanted, SETTINGS["surrogate_epochs"])

    suspects = {
        "itself": marked,
        "scores": surrogate(sent, released),
        "sides": surrogate(sent, (released > 0.5).astype(np.float32)),
        "independent": surrogate(images.x_train[rest], wanted[rest]),
    }
    owner = resolve_owner(marked, key)
    row: dict[str, Any] = {"kind": kind, "seed": seed, "log10_p": {}, "log10_p_labels": {}, "accuracy": {}}
    for name, suspect in suspects.items():
        common: dict[str, Any] = {"owner": owner, "key": key, "queries": sent, "logged": True}
        row["log10_p"][name] = dm.verify(suspect, **common).log10_p
        row["log10_p_labels"][name] = dm.verify(
            lambda batch, suspect=suspect: (suspect.predict(batch, verbose=0) > 0.5).astype(int),
            suspect_options=dm.SuspectOptions(labels=True),
            **common,
        ).log10_p
    for name, model in (("clean", clean), ("marked", marked)):
        answers = predicted(model, images.x_test, batch_size=512) > 0.5
        row["accuracy"][name] = float((answers == targets(kind, images.y_test)).mean())
    if kind == "binary":
        keyed_hash = owner.codebook(key).keyed_hash
        row["entries"] = len(np.unique(entries(owner, keyed_hash, clean.predict(sent[:10_000], verbose=0))))
        row["changed"] = changed(owner, keyed_hash, clean, images.x_test)
    print(json.dumps(result_file.rounded(row)), flush=True)
    return row


def entries(owner: Owner, keyed_hash: KeyedHash, scores: Array) -> Array:
    """The entry of each answer in the class hash, ints of shape `(n,)`."""
    p = np.stack([1 - scores[:, 0], scores[:, 0]], axis=1)
    return keyed_hash.class_groups(p.argmax(axis=1), None) * HASH_SIZE + keyed_hash.hashes(p)


def changed(owner: Owner, keyed_hash: KeyedHash, clean: keras.Model, images: Array) -> dict[str, float]:
    """The share of images that get another entry than in batches of 256, by the way they are computed."""
    graph = tf.function(lambda batch: clean(batch, training=False), autograph=False, reduce_retracing=True)
    xla = tf.function(lambda batch: clean(batch, training=False), autograph=False, jit_compile=True)
    converter = tf.lite.TFLiteConverter.from_keras_model(clean)
    lite = tf.lite.Interpreter(model_content=converter.convert())
    asked, answered = (details()[0]["index"] for details in (lite.get_input_details, lite.get_output_details))
    lite.resize_tensor_input(asked, [100, *images.shape[1:]])
    lite.allocate_tensors()

    def by_lite(batch: Array) -> Array:
        lite.set_tensor(asked, batch.astype(np.float32))
        lite.invoke()
        return lite.get_tensor(answered).copy()

    def found(answer: Any, size: int) -> Array:
        starts = range(0, len(images), size)
        return entries(owner, keyed_hash, np.concatenate([np.asarray(answer(images[i : i + size])) for i in starts]))

    reference = found(graph, 256)
    ways = {
        "batches of 1": (graph, 1),
        "batches of 37": (graph, 37),
        "XLA": (xla, 250),
        "TensorFlow Lite": (by_lite, 100),
    }
    return {name: float((found(*way) != reference).mean()) for name, way in ways.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: the worst of the seeds, for independent models the smallest log10 p."""
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}

    def cell(kind: str, form: str, name: str) -> str:
        values = [row[form][name] for row in by_kind[kind]]
        return f"{min(values) if name == 'independent' else max(values):.1f}"

    lines = [
        "| log10 p | one label | one label, answers labels | 10 labels | 10 labels, answers labels |",
        "|---|---|---|---|---|",
    ]
    for name, words in SUSPECTS.items():
        cells = " | ".join(cell(kind, form, name) for kind in KINDS for form in ("log10_p", "log10_p_labels"))
        lines.append(f"| {words} | {cells} |")
    accuracy = {
        kind: " and ".join(f"{np.mean([row['accuracy'][name] for row in of_kind]):.4f}" for name in ("clean", "marked"))
        for kind, of_kind in by_kind.items()
    }
    binary = by_kind["binary"]
    ways = ", ".join(f"{way} {max(row['changed'][way] for row in binary):.2%}" for way in binary[0]["changed"])
    return "\n".join(
        [
            *lines,
            "",
            f"{len(binary)} owner models and keys; the worst of them, and the smallest log10 p of independent models. "
            f"Accuracy at 0.5, clean and marked, mean: one label {accuracy['binary']}; 10 labels {accuracy['labels']}.",
            "",
            f"10,000 answers about one label met at least {min(row['entries'] for row in binary):,} entries. "
            f"At most this share of 10,000 images got another entry: {ways}.",
            "",
        ]
    )


STUDY = SeededStudy(__file__, "heads.md", SETTINGS, lambda seed: [study(kind, seed) for kind in KINDS], table)

if __name__ == "__main__":
    STUDY.main(__doc__)
