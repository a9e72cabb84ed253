"""What do reference models add? Evidence with the clean model alone, and with three more models of the owner.

    python benchmarks/studies/reference_models.py             # three seeds, about 30 minutes
    python benchmarks/studies/reference_models.py --report    # writes the table into docs/reference-models.md

Owner, attackers and independent models are those of `questions.py`, with one more independent model of another
architecture. The reference models were trained on parts of the owner's 20,000 images. Fresh queries are a confident
and balanced choice from the test images. How references are taken into account was fixed on another seed (1).
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
from benchmarks.studies import fashion_mnist, questions
from benchmarks.studies.questions import trained
from dynamarks_tf.attacks.batches import predicted
from dynamarks_tf.case.assessment import assess
from dynamarks_tf.case.plan import rule_of
from dynamarks_tf.evidence.residual_accumulator import ResidualAccumulator, testable_channels
from dynamarks_tf.suspects.queries import confident_balanced_choice
from dynamarks_tf.verification.owner import resolve_owner
from dynamarks_tf.watermark.codebook import Codebook
from dynamarks_tf.watermark.params import MarkParams

SETTINGS: dict[str, Any] = {
    **{name: value for name, value in questions.SETTINGS.items() if name not in ("questions", "orders")},
    "references": [["pooled_cnn", 0, 10000], ["separable_cnn", 0, 20000], ["mlp", 10000, 20000]],
    "reference_epochs": 5,
    "mlp_epochs": 10,
    "fresh": [10, 100, 1000],
}
SUSPECTS = {
    "probabilities": "probabilities stolen",
    "probabilities, fine-tuned": "probabilities stolen, fine-tuned",
    "labels": "labels stolen",
    "labels, fine-tuned": "labels stolen, fine-tuned",
    "independent": "independent, architecture of the surrogates",
    "independent MLP": "independent, MLP",
}
_BATCH = 1000
Array = Any


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
    owner = resolve_owner(marked, key)
    suspects: dict[str, keras.Model] = {}
    for name, wanted in (("probabilities", released), ("labels", released.argmax(axis=1))):
        keras.utils.set_random_seed(3000 + seed)
        model = suspects[name] = trained(SETTINGS["surrogate"], sent, wanted, SETTINGS["surrogate_epochs"])
        suspects[f"{name}, fine-tuned"] = trained(
            SETTINGS["surrogate"], x[true], y[true], SETTINGS["fine_tuning_epochs"], model
        )
    suspects["independent"] = trained(SETTINGS["surrogate"], x[rest], y[rest], SETTINGS["surrogate_epochs"])
    references = []
    for place, (architecture, first, last) in enumerate(SETTINGS["references"]):
        keras.utils.set_random_seed(4000 + 10 * seed + place)
        references.append(trained(architecture, x[first:last], y[first:last], SETTINGS["reference_epochs"]))
    suspects["independent MLP"] = trained("mlp", x[rest], y[rest], SETTINGS["mlp_epochs"])

    def answers(model: keras.Model) -> tuple[Array, Array]:
        logged, fresh = (predicted(model, inputs, batch_size=512) for inputs in (sent, images.x_test))
        return logged, fresh

    row = row_of(
        seed,
        owner.codebook(key),
        owner.params,
        answers(clean),
        {name: answers(model) for name, model in suspects.items()},
        [answers(model) for model in references],
    )
    print(json.dumps(result_file.rounded(row)), flush=True)
    return row


def row_of(
    seed: int,
    book: Codebook,
    params: MarkParams,
    clean: tuple[Array, Array],
    suspects: dict[str, tuple[Array, Array]],
    references: list[tuple[Array, Array]],
) -> dict[str, Any]:
    """Log10 p of all suspects without and with references, from answers to the logged and to the fresh inputs."""
    logged, fresh = (np.stack(answers, axis=1) for answers in zip(*references, strict=True))
    top, sure = clean[1].argmax(axis=1), clean[1].max(axis=1)
    chosen = {count: confident_balanced_choice(top, sure, count, 0) for count in SETTINGS["fresh"]}
    row: dict[str, Any] = {"seed": seed}
    for name, (to_logged, to_fresh) in suspects.items():
        row[name] = {
            f"{count:,} fresh": [
                log10_p(book, params, clean[1][rows], to_fresh[rows], beside, logged=False)
                for beside in (None, fresh[rows])
            ]
            for count, rows in chosen.items()
        }
        for form, given in (("logged", to_logged), ("logged, labels", to_logged.argmax(axis=1))):
            row[name][form] = [log10_p(book, params, clean[0], given, beside, logged=True) for beside in (None, logged)]
    return row


def log10_p(
    book: Codebook, params: MarkParams, clean: Array, suspect: Array, references: Array | None, *, logged: bool
) -> float:
    """What `verify` would find."""
    form = {"fresh": not logged, "logged": logged, "labels": suspect.ndim == 1}
    accumulator = ResidualAccumulator(
        testable_channels(params, book.num_classes, **form),
        book.keyed_hash,
        params,
        book.contrasts(),
        num_fresh=0 if logged else len(clean),
        with_references=references is not None,
    )
    parts = [clean, suspect] if references is None else [clean, suspect, references]
    batches = (tuple(part[start : start + _BATCH] for part in parts) for start in range(0, len(clean), _BATCH))
    return assess(batches, accumulator, book, rule=rule_of(logged=logged, sequential=False)).log10_p


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: the worst of the seeds, for independent models the smallest log10 p."""
    asked = [*rows[0]["labels"]]
    words = {"logged": "all logged", "logged, labels": "all logged, labels only"}
    lines = [f"| log10 p without → with | {' | '.join(words.get(name, name) for name in asked)} |"]
    lines.append(f"|---|{'---|' * len(asked)}")
    for name, described in SUSPECTS.items():
        worst = min if name.startswith("independent") else max
        cells = [[worst(row[name][form][place] for row in rows) for place in (0, 1)] for form in asked]
        written = [" → ".join(f"{value:.1f}".replace("-0.0", "0.0") for value in cell) for cell in cells]
        lines.append(f"| {described} | {' | '.join(written)} |")
    models = "1 owner model and key" if len(rows) == 1 else f"{len(rows)} owner models and keys"
    about = (
        f"{models}; the worst of them, and the smallest log10 p of independent models. Three references, "
        f"{SETTINGS['logged']:,} logged queries."
    )
    return "\n".join([*lines, "", about, ""])


STUDY = SeededStudy(__file__, "reference-models.md", SETTINGS, lambda seed: [study(seed)], table)

if __name__ == "__main__":
    STUDY.main(__doc__)
