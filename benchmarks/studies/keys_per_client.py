"""Keys per client: whose marked model was a suspect trained on? Asked with fresh queries, against 64 keys.

    python benchmarks/studies/keys_per_client.py             # three seeds, half an hour on two busy cores
    python benchmarks/studies/keys_per_client.py --report    # writes the table into docs/keys-per-client.md

The owner model is trained on 20,000 images of Fashion-MNIST. One of 64 clients sends 5,000 other images to the model
that is marked with its own key, and trains a surrogate on the probabilities. The independent model is trained on true
labels of 12,000 images that nobody sent. Both are asked fresh test images, confident and balanced ones.
"""

from __future__ import annotations

import json
import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import dynamarks_tf as dm
from benchmarks import result_file
from benchmarks.seeded_study import SeededStudy
from benchmarks.studies import fashion_mnist
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.batches import predicted
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.evidence.exact_tail import TAIL_RULE
from dynamarks_tf.watermark.layer import SCHEME

SETTINGS: dict[str, Any] = {
    "scheme": SCHEME,
    "tail": TAIL_RULE,
    "owner": "pooled_cnn",
    "owner_images": 20000,
    "owner_epochs": 4,
    "clients": 64,
    "attacker": "client-42",
    "sent": 5000,
    "surrogate": "separable_cnn",
    "surrogate_epochs": 16,
    "independent_images": 12000,
    "batch_size": 64,
    "budget": 0.05,
    "tie_margin": 0.5,
    "queries": [10, 100, 1000],
}
CLIENTS = [f"client-{number}" for number in range(SETTINGS["clients"])]
SUSPECTS = {"stolen": "answers to one client", "independent": "nobody's answers (independent)"}
Array = Any


def trained(architecture: str, images: Array, targets: Array, epochs: int) -> keras.Model:
    """A model trained on targets."""
    model = ARCHITECTURES[architecture](images.shape[1:], 10)
    return train_classifier(model, images, targets, epochs=epochs, batch_size=SETTINGS["batch_size"])


def study(seed: int) -> list[dict[str, Any]]:
    """One owner model and master key: a row for each suspect and number of queries."""
    images = fashion_mnist.load()
    keras.utils.set_random_seed(1000 + seed)
    start, stop = SETTINGS["owner_images"], SETTINGS["owner_images"] + SETTINGS["sent"]
    clean = trained(SETTINGS["owner"], images.x_train[:start], images.y_train[:start], SETTINGS["owner_epochs"])
    master = dm.MarkKey((2000 + seed).to_bytes(32, "big"), "Keys per client")
    own_key = master.for_client(SETTINGS["attacker"])
    marked = dm.mark(clean, own_key, SETTINGS["budget"], tie_margin=SETTINGS["tie_margin"])
    sent = images.x_train[start:stop]
    answers = predicted(marked, sent, batch_size=512)

    def surrogate(images: Array, targets: Array) -> keras.Model:
        keras.utils.set_random_seed(3000 + seed)
        return trained(SETTINGS["surrogate"], images, targets, SETTINGS["surrogate_epochs"])

    rest = slice(stop, stop + SETTINGS["independent_images"])
    suspects = {
        "stolen": surrogate(sent, answers),
        "independent": surrogate(images.x_train[rest], images.y_train[rest]),
    }
    rows = []
    for name, suspect in suspects.items():
        for count in SETTINGS["queries"]:
            found = dm.trace(
                suspect, owner=marked, key=master, keys=CLIENTS, queries=images.x_test, max_queries=count
            ).clients
            others = [each for client, each in found.items() if name == "independent" or client != SETTINGS["attacker"]]
            attacker = found[SETTINGS["attacker"]]
            row = {
                "seed": seed,
                "suspect": name,
                "queries": count,
                "attacker_log10_p": attacker.log10_p,
                "attacker_adjusted_log10_p": attacker.adjusted_log10_p,
                "others_log10_p": min(each.log10_p for each in others),
                "others_adjusted_log10_p": min(each.adjusted_log10_p for each in others),
            }
            print(json.dumps(result_file.rounded(row)), flush=True)
            rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: the weakest evidence about the attacker, the strongest about any other client."""
    lines = [
        "| the suspect was trained on | fresh queries | log10 p of this client | adjusted | of the other keys, the "
        "smallest log10 p | adjusted |",
        "|---|---|---|---|---|---|",
    ]
    for name, words in SUSPECTS.items():
        for count in SETTINGS["queries"]:
            found = [row for row in rows if (row["suspect"], row["queries"]) == (name, count)]
            theirs = [max(row[f"attacker_{kind}"] for row in found) for kind in ("log10_p", "adjusted_log10_p")]
            others = [min(row[f"others_{kind}"] for row in found) for kind in ("log10_p", "adjusted_log10_p")]
            own = ["-", "-"] if name == "independent" else [f"{value:.1f}" for value in theirs]
            cells = (words, f"{count:,}", *own, *(f"{value:.1f}" for value in others))
            lines.append(f"| {' | '.join(cells)} |")
    seeds = sorted({row["seed"] for row in rows})
    return "\n".join(
        [
            *lines,
            "",
            f"Seeds of owner model and master key: {', '.join(map(str, seeds))}. Each figure is the worst of them: the "
            "weakest for the client whose answers were used, the strongest for all others.",
            "",
        ]
    )


STUDY = SeededStudy(__file__, "keys-per-client.md", SETTINGS, study, table)

if __name__ == "__main__":
    STUDY.main(__doc__)
