"""Labels into a surrogate: how does the evidence grow with the passes over them, and how many ties would it take?

    python benchmarks/studies/label_memory.py             # three seeds, about 20 minutes
    python benchmarks/studies/label_memory.py --report    # writes the table into docs/settings.md from the results

The owner model is trained on 20,000 images of Fashion-MNIST, and marked with default settings. The attacker sends
20,000 others and keeps the labels. Each surrogate is trained on these and asked for labels after 3, 6, 12 and 24
passes. One has dropout, which keeps it from remembering. A surrogate that sides with a share q of the secret signs of
ties takes ln(10^6) / KL(q || 1/2) ties to p = 10^-6.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import dynamarks_tf as dm
from benchmarks import result_file
from benchmarks.seeded_study import SeededStudy
from benchmarks.studies import fashion_mnist
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.batches import predicted
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.evidence import anytime
from dynamarks_tf.evidence.residual_accumulator import ResidualAccumulator
from dynamarks_tf.verification.owner import resolve_owner
from dynamarks_tf.watermark.layer import SCHEME

SETTINGS: dict[str, Any] = {
    "scheme": SCHEME,
    "owner": "pooled_cnn",
    "owner_images": 20000,
    "owner_epochs": 6,
    "sent": 20000,
    "passes": [3, 6, 12, 24],
    "dropout": 0.5,
    "batch_size": 64,
}
SURROGATES = {
    "separable_cnn": "separable CNN",
    "with dropout": "the same with dropout of one half before its last layer",
    "mlp": "multi-layer perceptron",
}
Array = Any


def surrogate(name: str, shape: tuple[int, ...]) -> keras.Model:
    """An untrained surrogate."""
    if name != "with dropout":
        return ARCHITECTURES[name](shape, 10)
    plain = ARCHITECTURES["separable_cnn"](shape, 10)
    dropped = keras.layers.Dropout(SETTINGS["dropout"])(plain.layers[-1].input)
    return keras.Model(plain.inputs, plain.layers[-1](dropped))


def study(seed: int) -> list[dict[str, Any]]:
    """One owner model and key, all surrogates after each number of passes."""
    images = fashion_mnist.load()
    order = np.random.default_rng(seed).permutation(len(images.x_train))
    x, y = images.x_train[order], images.y_train[order]
    start, stop = SETTINGS["owner_images"], SETTINGS["owner_images"] + SETTINGS["sent"]
    keras.utils.set_random_seed(1000 + seed)
    size = {"batch_size": SETTINGS["batch_size"]}
    clean = ARCHITECTURES[SETTINGS["owner"]](x.shape[1:], 10)
    train_classifier(clean, x[:start], y[:start], epochs=SETTINGS["owner_epochs"], **size)
    key = dm.MarkKey((2000 + seed).to_bytes(32, "big"), "Memory")
    marked, sent = dm.mark(clean, key), x[start:stop]
    owner = resolve_owner(marked, key)
    answers = predicted(clean, sent, batch_size=512)
    labels = predicted(marked, sent, batch_size=512).argmax(axis=1)
    rows = []
    for name in SURROGATES:
        keras.utils.set_random_seed(3000 + seed)
        model, done = surrogate(name, x.shape[1:]), 0
        for passes in SETTINGS["passes"]:
            train_classifier(model, sent, labels, epochs=passes - done, **size)
            done = passes
            given = predicted(model, sent, batch_size=512).argmax(axis=1)
            tested = predicted(model, images.x_test, batch_size=512).argmax(axis=1)
            accuracy = float(np.mean(tested == images.y_test))
            row = {"seed": seed, "surrogate": name, "passes": passes, "accuracy": accuracy}
            rows.append({**row, **evidence(owner, key, answers, given)})
            print(json.dumps(result_file.rounded(rows[-1])), flush=True)
    return rows


def evidence(owner: Any, key: dm.MarkKey, clean: Array, labels: Array) -> dict[str, Any]:
    """log10 p of all ties of the log, how many they are, and with how many secret signs the labels side."""
    book = owner.codebook(key)
    gathered = ResidualAccumulator(("tie",), book.keyed_hash, owner.params)
    gathered.add(clean, labels)
    ties = gathered.residuals()["tie"]
    channels, log10_e = anytime.evidence({"tie": ties}, book.signs)
    signs, residuals = book.signs("tie").ravel()[ties.cells], ties.values.ravel()[ties.cells]
    decided = np.abs(residuals) > 0
    obeyed = float((signs * np.sign(residuals) > 0)[decided].mean())
    return {"log10_p": min(-log10_e, 0.0), "ties": channels[0].num_cells, "obeyed": obeyed}


def ties_needed(obeyed: float) -> float:
    """How many ties give p = 10^-6 if a surrogate sides with this share of their signs."""
    q = min(max(obeyed, 0.5 + 1e-9), 1 - 1e-9)
    return math.log(1e6) / (q * math.log(2 * q) + (1 - q) * math.log(2 - 2 * q))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: the worst of the seeds."""
    lines = [
        "| surrogate of labels | passes | accuracy | log10 p | signs it sides with | ties to 10^-6 | share of the log "
        "that ties would have to be |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, words in SURROGATES.items():
        for passes in SETTINGS["passes"]:
            same = [row for row in rows if (row["surrogate"], row["passes"]) == (name, passes)]
            if not same:  # of a study that was stopped
                continue
            weakest = max(same, key=lambda row: row["log10_p"])
            needed = ties_needed(weakest["obeyed"])
            share = needed / SETTINGS["sent"]
            asked = (f"{needed:,.0f}", f"{share:.1%}") if needed <= SETTINGS["sent"] else ("more than were sent", "-")
            lines.append(
                f"| {words} | {passes} | {weakest['accuracy']:.3f} | {weakest['log10_p']:.1f} | "
                f"{weakest['obeyed']:.0%} | {asked[0]} | {asked[1]} |"
            )
    held = [row["ties"] / SETTINGS["sent"] for row in rows]
    shares = dict.fromkeys(f"{share:.1%}" for share in (min(held), max(held)))
    seeds = sorted({row["seed"] for row in rows})
    return "\n".join(
        [
            *lines,
            "",
            f"Seeds of owner model and key: {', '.join(map(str, seeds))}; each line is the weakest of them. Ties were "
            f"{' to '.join(shares)} of {SETTINGS['sent']:,} logged queries at `tie_margin` 0.5.",
            "",
        ]
    )


STUDY = SeededStudy(__file__, "settings.md", SETTINGS, study, table)

if __name__ == "__main__":
    STUDY.main(__doc__)
