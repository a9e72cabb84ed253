"""Which client's answers was a suspect trained on? Thefts by one and by two of five clients, and an independent model.

    python benchmarks/studies/trace.py             # three seeds, about 15 minutes on two idle cores
    python benchmarks/studies/trace.py --report    # writes the table into docs/trace.md from the results

The owner model is trained on 20,000 images of Fashion-MNIST. Five clients send 5,000 other images each. In the second
setting, each also sends 2,500 that the other four sent, drawn at random, so regardless of any answer. The requests of
all clients come in random order. Surrogates are trained on all that one client or two clients got, on the probabilities
or on the labels; those of labels answer labels. The independent model is trained on true labels of 12,000 images that
nobody sent.
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
from benchmarks import result_file
from benchmarks.seeded_study import SeededStudy
from benchmarks.studies import fashion_mnist
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.batches import predicted
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.case.trace import ClientEvidence
from dynamarks_tf.request_logs.reduced_log import ReducedLog
from dynamarks_tf.verification.owner import resolve_owner
from dynamarks_tf.verification.whole_log import marked_of, reduced
from dynamarks_tf.watermark.layer import SCHEME

SETTINGS: dict[str, Any] = {
    "scheme": SCHEME,
    "owner": "pooled_cnn",
    "owner_images": 20000,
    "owner_epochs": 4,
    "clients": 5,
    "sent_by_each": 5000,
    "also_sent_by_each": 2500,
    "surrogate": "separable_cnn",
    "surrogate_epochs": 16,
    "independent_images": 12000,
    "batch_size": 64,
    "budget": 0.05,
    "tie_margin": 0.5,
}
CLIENTS = tuple(f"client-{number}" for number in range(SETTINGS["clients"]))
SENT = {"disjoint": "nothing of the others'", "shared": "2,500 of the others'"}
ATTACKERS = {"one": CLIENTS[3:4], "two": (CLIENTS[1], CLIENTS[4]), "none": ()}
KEPT = {"probabilities": "probabilities", "labels": "labels only"}
Array = Any


def trained(architecture: str, images: Array, targets: Array, epochs: int) -> keras.Model:
    """A model trained on targets."""
    model = ARCHITECTURES[architecture](images.shape[1:], 10)
    return train_classifier(model, images, targets, epochs=epochs, batch_size=SETTINGS["batch_size"])


def requests(seed: int, sent: str) -> list[Array]:
    """Which images each client sends: indices into the images that the owner model was not trained on."""
    rng = np.random.default_rng(seed)
    each, count = SETTINGS["sent_by_each"], len(CLIENTS)
    own = [np.arange(number * each, (number + 1) * each) for number in range(count)]
    if sent == "disjoint":
        return own
    everything = np.arange(count * each)
    also = [rng.choice(np.setdiff1d(everything, mine), SETTINGS["also_sent_by_each"], replace=False) for mine in own]
    return [np.concatenate(parts) for parts in zip(own, also, strict=True)]


def study(seed: int) -> list[dict[str, Any]]:
    """One owner model and key, and all suspects: a row for each."""
    images = fashion_mnist.load()
    keras.utils.set_random_seed(1000 + seed)
    start, stop = SETTINGS["owner_images"], SETTINGS["owner_images"] + len(CLIENTS) * SETTINGS["sent_by_each"]
    clean = trained(SETTINGS["owner"], images.x_train[:start], images.y_train[:start], SETTINGS["owner_epochs"])
    key = dm.MarkKey((2000 + seed).to_bytes(32, "big"), "Trace")
    marked = dm.mark(clean, key, SETTINGS["budget"], tie_margin=SETTINGS["tie_margin"])
    owner, inputs = resolve_owner(marked, key), images.x_train[start:stop]
    answers = predicted(marked, inputs, batch_size=512)

    def surrogate(images: Array, targets: Array) -> keras.Model:
        keras.utils.set_random_seed(3000 + seed)
        return trained(SETTINGS["surrogate"], images, targets, SETTINGS["surrogate_epochs"])

    rest = slice(stop, stop + SETTINGS["independent_images"])
    independent = surrogate(images.x_train[rest], images.y_train[rest])
    rows = []
    for sent in SENT:
        asked = requests(seed, sent)
        log = log_of(seed, asked, inputs, owner, key)
        for attackers, names in ATTACKERS.items():
            got = np.concatenate([asked[CLIENTS.index(name)] for name in names]) if names else None
            for kept in KEPT:
                suspect = independent
                if got is not None:
                    targets = answers[got] if kept == "probabilities" else answers[got].argmax(axis=1)
                    suspect = surrogate(inputs[got], targets)
                options = dm.SuspectOptions(labels=kept == "labels")
                found = dm.trace(
                    suspect if kept == "probabilities" else labels_of(suspect),
                    owner=owner,
                    key=key,
                    log=log,
                    groups=[names] if len(names) > 1 else [],
                    suspect_options=options,
                )
                row = {"seed": seed, "sent": sent, "attackers": attackers, "kept": kept, **facts(found.clients)}
                print(json.dumps(result_file.rounded(row)), flush=True)
                rows.append(row)
    return rows


def log_of(seed: int, asked: list[Array], inputs: Array, owner: Any, key: dm.MarkKey) -> ReducedLog:
    """The log of all clients' requests, in random order, reduced once for all suspects."""
    order = np.random.default_rng(seed + 1).permutation(sum(map(len, asked)))
    clients = np.repeat(CLIENTS, [len(mine) for mine in asked])[order]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.npz"
        np.savez(path, inputs=inputs[np.concatenate(asked)[order]], client=clients, time=np.arange(len(order)) / 10)
        log = dm.open_log(path)
        reduction = reduced(log, marked_of(owner, owner.codebook(key).keyed_hash), batch_size=512)
        return ReducedLog(reduction, log.selection, log.paths)


def labels_of(model: keras.Model) -> Any:
    """The model as an API that answers labels only."""
    return lambda batch: np.asarray(model(batch, training=False)).argmax(axis=1)


def facts(clients: dict[str, ClientEvidence]) -> dict[str, Any]:
    """What is kept of a trace."""
    return {
        "log10_p": {name: client.log10_p for name, client in clients.items()},
        "adjusted_log10_p": {name: client.adjusted_log10_p for name, client in clients.items()},
        "exclusive_signs": {name: client.exclusive_signs for name, client in clients.items()},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: the weakest evidence about an attacker, the strongest about any other client.

    Settings without a row, of a study that was stopped, are left out.
    """
    lines = [
        "| the suspect was trained on the answers of | on which part | each client also sent "
        "| adjusted log10 p of these clients | of all others | of the two together |",
        "|---|---|---|---|---|---|",
    ]
    words = {"one": "one client", "two": "two clients", "none": "nobody (independent)"}
    for attackers, names in ATTACKERS.items():
        for kept in KEPT:
            for sent in SENT:
                found = [row for row in rows if (row["attackers"], row["kept"], row["sent"]) == (attackers, kept, sent)]
                if not found:
                    continue
                p = [row["adjusted_log10_p"] for row in found]
                theirs = [f"{max(each[name] for each in p):.1f}" for name in names]
                others = min(each[name] for each in p for name in CLIENTS if name not in names)
                together = f"{max(each[' + '.join(names)] for each in p):.1f}" if len(names) > 1 else "-"
                what = KEPT[kept] if names else f"it answers {kept}"
                cells = (words[attackers], what, SENT[sent], ", ".join(theirs) or "-", f"{others:.1f}", together)
                lines.append(f"| {' | '.join(cells)} |")
    signs = {
        sent: [
            row["exclusive_signs"][name]
            for row in rows
            for name in CLIENTS
            if (row["sent"], row["kept"]) == (sent, "probabilities")
        ]
        for sent in SENT
    }
    own, shared = (f"{min(counts):,} to {max(counts):,}" for counts in signs.values())
    seeds = sorted({row["seed"] for row in rows})
    return "\n".join(
        [
            *lines,
            "",
            f"Seeds of owner model and key: {', '.join(map(str, seeds))}. Each figure is the worst of them: the "
            "weakest for clients whose answers were used, the strongest for all others.",
            f"For probabilities, a client has {own} exclusive signs; where clients share inputs, {shared}.",
            "",
        ]
    )


STUDY = SeededStudy(__file__, "trace.md", SETTINGS, study, table)

if __name__ == "__main__":
    STUDY.main(__doc__)
