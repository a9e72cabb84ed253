"""How many questions does a logged theft take? Evidence against their number, and where a sequential test stops.

    python benchmarks/studies/questions.py             # three seeds, about 20 minutes
    python benchmarks/studies/questions.py --report    # writes the tables into docs/questions.md from the results

The owner model is trained on 20,000 images of Fashion-MNIST. An attacker sends 25,000 other images, which are the log,
and trains a surrogate on the probabilities or on the labels; another fine-tunes that on 3,000 true labels. `verify`
chooses its questions by clean answers alone: of the log, and for suspects that answer probabilities also of the test
images, which nobody sent. Control: models trained on the true labels of 12,000 other images. Sequential tests stop at
p <= 1e-6; the log comes in 9 random orders. How many questions are fresh, confident and ties was fixed on another seed
(1) than these.
"""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import dynamarks_tf as dm
from benchmarks import result_file
from benchmarks.seeded_study import SeededStudy
from benchmarks.studies import fashion_mnist
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.batches import batches, predicted
from dynamarks_tf.request_logs.query_log import Selection
from dynamarks_tf.request_logs.reduced_log import ReducedLog
from dynamarks_tf.verification.owner import resolve_owner
from dynamarks_tf.verification.whole_log import marked_of, reduced
from dynamarks_tf.watermark.layer import SCHEME

SETTINGS: dict[str, Any] = {
    "scheme": SCHEME,
    "owner": "pooled_cnn",
    "owner_images": 20000,
    "owner_epochs": 6,
    "logged": 25000,
    "surrogate": "separable_cnn",
    "surrogate_epochs": 12,
    "true_labels": 3000,
    "fine_tuning_epochs": 5,
    "independent_images": 12000,
    "batch_size": 64,
    "questions": [15, 30, 60, 100, 200, 300, 1000, None],
    "orders": 9,
}
SUSPECTS = {
    "probabilities": "probabilities stolen",
    "probabilities, fine-tuned": "probabilities stolen, fine-tuned",
    "labels": "labels stolen",
    "labels, fine-tuned": "labels stolen, fine-tuned",
    "independent": "independent model",
}
Array = Any


def trained(architecture: str, images: Array, wanted: Array, epochs: int, model: keras.Model | None = None) -> Any:
    """A classifier trained on classes or probabilities; `model` is trained further."""
    if model is None:
        model = ARCHITECTURES[architecture](images.shape[1:], 10)
    else:
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        model = copy
    loss = "categorical_crossentropy" if wanted.ndim > 1 else "sparse_categorical_crossentropy"
    model.compile("adam", loss)
    data = batches(images, wanted, batch_size=SETTINGS["batch_size"], shuffled=True)
    model.fit(data, epochs=epochs, shuffle=False, verbose=0)
    return model


def study(seed: int) -> dict[str, Any]:
    """One owner model and key, and all suspects."""
    images = fashion_mnist.load()
    keras.utils.set_random_seed(1000 + seed)
    order = np.random.default_rng(seed).permutation(len(images.x_train))
    x, y = images.x_train[order], images.y_train[order]
    start, stop = SETTINGS["owner_images"], SETTINGS["owner_images"] + SETTINGS["logged"]
    true = slice(stop, stop + SETTINGS["true_labels"])
    rest = slice(true.stop, true.stop + SETTINGS["independent_images"])
    clean = trained(SETTINGS["owner"], x[:start], y[:start], SETTINGS["owner_epochs"])
    key = dm.MarkKey((2000 + seed).to_bytes(32, "big"), "Questions")
    marked = dm.mark(clean, key)
    sent = x[start:stop]
    released = predicted(marked, sent, batch_size=512)
    suspects: dict[str, keras.Model] = {}
    for name, wanted in (("probabilities", released), ("labels", released.argmax(axis=1))):
        keras.utils.set_random_seed(3000 + seed)
        suspects[name] = trained(SETTINGS["surrogate"], sent, wanted, SETTINGS["surrogate_epochs"])
        suspects[f"{name}, fine-tuned"] = trained(
            SETTINGS["surrogate"], x[true], y[true], SETTINGS["fine_tuning_epochs"], suspects[name]
        )
    suspects["independent"] = trained(SETTINGS["surrogate"], x[rest], y[rest], SETTINGS["surrogate_epochs"])
    asked = np.concatenate([sent, images.x_test])
    known = {name: by_input(asked, predicted(model, asked, batch_size=512)) for name, model in suspects.items()}
    return row_of(seed, resolve_owner(marked, key), key, sent, images.x_test, known)


def row_of(
    seed: int, owner: Any, key: dm.MarkKey, sent: Array, fresh: Array, known: dict[str, dict[bytes, Array]]
) -> dict[str, Any]:
    """What `verify` finds by the answers of all suspects: after each number of questions, and where it stops."""
    log = log_of(owner, key, sent)
    row: dict[str, Any] = {"seed": seed, "queries": len(sent), "first": len(log.reduction.queries)}
    orders = np.random.default_rng(seed)
    shuffled = [log_of(owner, key, sent[orders.permutation(len(sent))]) for _ in range(SETTINGS["orders"])]
    for form in ("probabilities", "labels"):
        row[form], row[f"{form}, sequential"] = {}, {}
        beside = {"fresh": fresh} if form == "probabilities" else {}
        options = dm.SuspectOptions(labels=form == "labels", batch_size=4096)
        common: dict[str, Any] = {"owner": owner, "key": key, "suspect_options": options, **beside}
        for name, answers in known.items():

            def suspect(batch: Array, answers: Any = answers, form: str = form) -> Array:
                found = np.stack([answers[each.tobytes()] for each in batch])
                return found.argmax(axis=1) if form == "labels" else found

            found = [dm.verify(suspect, queries=log, max_queries=count, **common) for count in SETTINGS["questions"]]
            row[form][name] = [[each.num_queries, each.log10_p] for each in found]
            stopped = [dm.verify(suspect, queries=each, sequential=True, **common) for each in shuffled]
            row[f"{form}, sequential"][name] = [each.num_queries if each.detected() else None for each in stopped]
    print(json.dumps(result_file.rounded(row)), flush=True)
    return row


def log_of(owner: Any, key: dm.MarkKey, sent: Array) -> ReducedLog:
    """What an attacker sent as a log, reduced once."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/log.npz", inputs=sent, client="attacker")
        opened = dm.open_log(f"{folder}/log.npz")
        reduction = reduced(opened, marked_of(owner, owner.codebook(key).keyed_hash), batch_size=512)
    return ReducedLog(reduction, Selection(), ())


def by_input(inputs: Array, answers: Array) -> dict[bytes, Array]:
    """Answers by input, so that each model is asked once."""
    return {each.tobytes(): answer for each, answer in zip(inputs, answers, strict=True)}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: the worst of the seeds, for independent models the smallest log10 p."""
    counts = [f"{count:,}" if count else "all" for count in SETTINGS["questions"]]
    lines = [f"| log10 p after this many questions | {' | '.join(counts)} |", f"|---|{'---|' * len(counts)}"]
    for form in ("probabilities", "labels"):
        for name, words in SUSPECTS.items():
            worst = min if name == "independent" else max
            cells = [f"{worst(row[form][name][place][1] for row in rows):.1f}" for place in range(len(counts))]
            lines.append(f"| {words}, answers {form} | {' | '.join(cells)} |")
    lines += stops(rows)
    every = {form: max(row[form]["independent"][-1][0] for row in rows) for form in ("probabilities", "labels")}
    return "\n".join(
        [
            *lines,
            "",
            f"{len(rows)} owner model(s) and key(s): the worst of them, the smallest log10 p of independent models. "
            f"Of {rows[0]['queries']:,} logged queries, at most {every['probabilities']:,} carry evidence about "
            f"probabilities, and {every['labels']:,} about labels; for probabilities, up to 40 are fresh. Sequential "
            f"tests: {SETTINGS['orders']} orders of each log; the worst of the models.",
            "",
        ]
    )


def stops(rows: list[dict[str, Any]]) -> list[str]:
    """Where sequential tests stopped, as Markdown: the worst of the seeds."""
    lines = ["", "| a sequential test stops after, median (nine of ten) | questions |", "|---|---|"]
    for form in ("probabilities", "labels"):
        for name, words in SUSPECTS.items():
            lines.append(f"| {words}, answers {form} | {stop(rows, form, name)} |")
    return lines


def stop(rows: list[dict[str, Any]], form: str, name: str) -> str:
    """Where the sequential tests of one suspect stopped."""
    of_row = [(row["queries"], row[f"{form}, sequential"][name]) for row in rows]
    ends = [sorted(most if at is None else at for at in found) for most, found in of_row]
    found = [at is not None for _, each in of_row for at in each]
    middle, late = (max(each[int(share * len(each))] for each in ends) for share in (0.5, 0.9))
    return f"{middle:,} ({late:,})" if all(found) else f"{sum(found)} of {len(found)} tests stopped"


STUDY = SeededStudy(__file__, "questions.md", SETTINGS, lambda seed: [study(seed)], table)

if __name__ == "__main__":
    STUDY.main(__doc__)
