"""What can fresh queries show of surrogates that they show nothing of? Four holes, and what was tried on each.

    make photos                                            # patches of photographs: the attacker's other domain
    python benchmarks/studies/fresh_holes.py               # three seeds, about 10 minutes each on one core
    python benchmarks/studies/fresh_holes.py --report      # writes the table into docs/threat-model.md from the results

The owner model is trained on 20,000 images of Fashion-MNIST and marked with default settings; the attacker trains a
separable CNN on answers to 24,000 inputs. The holes: the attacker asks about another domain (photographs, in gray);
smooths the probabilities and fine-tunes on 3,000 true labels; trains a new last layer on them; keeps probabilities and
serves labels. Tried: ten times as many queries, three reference models, fresh queries of the attacker's domain (of
tiles that were not sent), the queries that are nearest to a tie, and queries of which the surrogate is least certain in
place of those of which the clean model is surest. All are fresh, so only the class channel counts; log10 p.
"""

from __future__ import annotations

import json
import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import dynamarks_tf as dm
from benchmarks import result_file
from benchmarks.seeded_study import SeededStudy
from benchmarks.studies import fashion_mnist, photos
from benchmarks.studies.reference_models import log10_p
from dynamarks_tf.attacks import post_processing, removal
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.batches import predicted
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.attacks.query_sets import adapted
from dynamarks_tf.suspects.queries import confident_balanced_choice
from dynamarks_tf.verification.owner import resolve_owner
from dynamarks_tf.watermark.layer import SCHEME

SETTINGS: dict[str, Any] = {
    "scheme": SCHEME,
    "owner": "pooled_cnn",
    "owner_images": 20000,
    "owner_epochs": 6,
    "sent": 24000,
    "surrogate": "separable_cnn",
    "epochs": 8,
    "true_labels": 3000,
    "fresh": [100, 1000],
}
COLUMNS = (
    "100 fresh",
    "1,000",
    "with references",
    "of the other domain",
    "nearest to a tie",
    "surrogate least certain",
)
Array = Any


def study(seed: int) -> list[dict[str, Any]]:
    """All holes for one owner model and key."""
    images, strange = fashion_mnist.load(), photos.load(100)
    order = np.random.default_rng(seed).permutation(len(images.x_train))
    x, y = images.x_train[order], images.y_train[order]
    start, stop = SETTINGS["owner_images"], SETTINGS["owner_images"] + SETTINGS["sent"]
    shape = x.shape[1:]
    keras.utils.set_random_seed(1000 + seed)
    clean = ARCHITECTURES[SETTINGS["owner"]](shape, 10)
    train_classifier(clean, x[:start], y[:start], epochs=SETTINGS["owner_epochs"])
    references = []
    for name, part in (("pooled_cnn", slice(0, start // 2)), ("separable_cnn", slice(start)), ("mlp", slice(start))):
        references.append(ARCHITECTURES[name](shape, 10))
        train_classifier(references[-1], x[part], y[part], epochs=4)
    key = dm.MarkKey((2000 + seed).to_bytes(32, "big"), "Holes")
    marked = dm.mark(clean, key)
    owner = resolve_owner(marked, key)
    book = owner.codebook(key)
    tuning = images.x_test[: SETTINGS["true_labels"]], images.y_test[: SETTINGS["true_labels"]]
    fresh = images.x_test[SETTINGS["true_labels"] :]
    strange_sent, strange_fresh = adapted(strange.x_train, shape), adapted(strange.x_test, shape)

    def answers(model: Any, inputs: Array) -> Array:
        return predicted(model, inputs, batch_size=512)

    def surrogate(sent: Array, post_process: Any = np.asarray) -> Any:
        keras.utils.set_random_seed(3000 + seed)
        model = ARCHITECTURES[SETTINGS["surrogate"]](shape, 10)
        train_classifier(model, sent, post_process(answers(marked, sent)), epochs=SETTINGS["epochs"])
        return model

    def tuned(model: Any) -> Any:
        return removal.fine_tune(removal.copied(model), *tuning)

    full, strange_full = surrogate(x[start:stop]), surrogate(strange_sent)
    suspects = {
        "probabilities": (full, False),
        "another domain": (strange_full, False),
        "another domain, fine-tuned": (tuned(strange_full), False),
        "smoothed, fine-tuned": (tuned(surrogate(x[start:stop], post_processing.smoothed)), False),
        "new last layer": (removal.replace_head(removal.copied(full), *tuning, seed=seed), False),
        "probabilities stolen, labels served": (full, True),
    }
    clean_fresh, clean_strange = answers(clean, fresh), answers(clean, strange_fresh)
    beside = np.stack([answers(model, fresh) for model in references], axis=1)

    def p(clean_given: Array, given: Array, rows: Array, labels: bool, helpers: Array | None = None) -> float:
        shown = np.eye(10, dtype=np.float32)[given.argmax(axis=1)] if labels else given
        helpers = None if helpers is None else helpers[rows]
        return log10_p(book, owner.params, clean_given[rows], shown[rows], helpers, logged=False)

    def sure(given: Array, count: int) -> Array:
        return confident_balanced_choice(given.argmax(axis=1), given.max(axis=1), count, 0)

    rows = []
    few, many = SETTINGS["fresh"]
    ordered = np.sort(clean_fresh, axis=1)
    near = np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable")[:many]
    for name, (model, labels) in suspects.items():
        given = answers(model, fresh)
        unsure = np.argsort(given.max(axis=1), kind="stable")[:many]  # sign-free, as the plan must be
        found = (
            p(clean_fresh, given, sure(clean_fresh, few), labels),
            p(clean_fresh, given, sure(clean_fresh, many), labels),
            p(clean_fresh, given, sure(clean_fresh, many), labels, beside),
            p(clean_strange, answers(model, strange_fresh), sure(clean_strange, many), labels),
            p(clean_fresh, given, np.sort(near), labels),
            p(clean_fresh, given, np.sort(unsure), labels),
        )
        accuracy = float(np.mean(given.argmax(axis=1) == images.y_test[SETTINGS["true_labels"] :]))
        rows.append({"seed": seed, "suspect": name, "accuracy": accuracy, **dict(zip(COLUMNS, found, strict=True))})
        print(json.dumps(result_file.rounded(rows[-1])), flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: the weakest of the seeds."""
    lines = [f"| suspect | accuracy | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name in dict.fromkeys(row["suspect"] for row in rows):
        same = [row for row in rows if row["suspect"] == name]
        weakest = " | ".join(f"{max(row[column] for row in same) + 0:.1f}" for column in COLUMNS)
        lines.append(f"| {name} | {min(row['accuracy'] for row in same):.3f} | {weakest} |")
    seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    return "\n".join([*lines, "", f"Seeds of owner model and key: {seeds}; each figure is the weakest of them.", ""])


STUDY = SeededStudy(__file__, "threat-model.md", SETTINGS, study, table)

if __name__ == "__main__":
    STUDY.main(__doc__)
