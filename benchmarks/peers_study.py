"""This project's mark beside the published output-side marks: the same theft, the same data, the same run.

    python benchmarks/peers_study.py --seed 0 --seed 1 --seed 2    # about half an hour a seed on one core
    python benchmarks/peers_study.py --report                      # writes docs/baselines.md from the results

For each seed: a new owner model on one half of the training images and a new key. Each scheme marks that model; a
attacker asks each API the other half and trains a surrogate on the answers, or on their labels. Fine-tuning uses 3,000
test images with their true labels, fresh queries come from the other 7,000, logged queries are what the attacker sent.
Innocents are a model trained on true labels and the surrogates of the unmarked API. No setting was chosen on these
figures: peers run as published, ours at the settings of its own study. Rows are appended to the results file as they
come, and rows that are there already are not computed again; `--weights` keeps the trained weights, so that changed
tests need no training.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import fashion_mnist
import keras
import numpy as np
import tensorflow as tf
from peers import CosineWatermark, DynamicAdversarialWatermark
from peers.evidence import Peer, ask

import dynamarks_tf as dm
from dynamarks_tf._support import files
from dynamarks_tf.attacks import post_processing, removal
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.verification.provenance import package_versions
from dynamarks_tf.watermark import metrics
from dynamarks_tf.watermark.layer import SCHEME

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "peers.json"
REPORT = HERE.parent / "docs" / "baselines.md"
BUDGET, TIE_MARGIN = 0.05, 0.5
OWNER_EPOCHS, EPOCHS = 6, 10
SETTINGS = {
    "scheme": SCHEME,
    "budget": BUDGET,
    "tie_margin": TIE_MARGIN,
    "owner_epochs": OWNER_EPOCHS,
    "epochs": EPOCHS,
}
FINE_TUNED = 3000
COUNTS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 30000)
SHOWN = (10, 100, 1000)
MOST_OTHERS = 5000
LOG10_ALPHA = -6
ROUNDS = 40
SUSPECTS = (
    ("none", "true labels"),
    ("none", "soft"),
    ("ours", "soft"),
    ("ours", "labels"),
    ("dawn", "labels"),
    ("cosine", "soft"),
    ("dawn", "soft"),
    ("cosine-equal", "soft"),
    ("ours-no-ties", "soft"),
    ("cosine", "labels"),
    ("none", "labels"),
    ("cosine-equal", "labels"),
)
DETECTORS = {
    "none": ("ours", "ours-no-ties", "cosine", "cosine-others", "dawn"),
    "ours": ("ours",),
    "ours-no-ties": ("ours-no-ties",),
    "cosine": ("cosine", "cosine-others"),
    "cosine-equal": ("cosine-equal", "cosine-equal-others"),
    "dawn": ("dawn",),
}

TITLES = {
    "ours": "ours, ties 0.5",
    "ours-no-ties": "ours, no ties",
    "cosine": "CosWM, 0.05",
    "cosine-others": "CosWM, 0.05, other classes asked",
    "cosine-equal": "CosWM, mean TV as ours",
    "cosine-equal-others": "CosWM, mean TV as ours, other classes asked",
    "dawn": "DAWN, 0.5 %",
}
INTRODUCTION = (
    "# This mark beside published ones",
    "",
    "Written by `python benchmarks/peers_study.py --report` from its results; what was done stands at the top of",
    "[benchmarks/peers_study.py](../benchmarks/peers_study.py). Fashion-MNIST; the attacker asks 30,000 images and trains",
    "for 10 epochs. Seeds with a key each; how many stand in brackets behind the architecture of the surrogate.",
    "",
    "- **Ours**: budget 0.05, with tie margin 0.5 and without. `dm.mark`, `dm.verify`.",
    "- **CosWM** (Charette et al., AAAI 2022): a cosine of a secret projection of the input, added to the",
    "  probabilities; amplitude 0.05 and frequency 30 as published, and at the amplitude that gives the mean total",
    "  variation of ours. *Other classes asked* is a test of ours on their mark, not theirs",
    "  ([why](../benchmarks/peers/cosine.py)).",
    "- **DAWN** (Szyller et al., ACM Multimedia 2021): wrong answers to a keyed 0.5 % of the inputs.",
    "",
    "Both are rebuilt; where they deviate from the papers stands in",
    "[benchmarks/peers/cosine.py](../benchmarks/peers/cosine.py) and [dawn.py](../benchmarks/peers/dawn.py).",
    "DynaMarks (arXiv 2207.13321), whose idea this project follows, is not among them: only its abstract could be had.",
    "",
    "What the tables hold: log10 p, the *worst* of the seeds. CosWM states no p-value; its first figure is the rank",
    "of the key among 1,000 decoy keys, which cannot fall below -3.0, the figure in round brackets an",
    "**extrapolation** by an exponential tail fitted to the decoys, no bound of anything. DAWN's first figure is our",
    "exact test of its mark (binomial over the queries on which suspect and owner disagree), the one in square",
    "brackets that of a random guesser as null, as we understand the authors. Queries are counted as questions put to",
    "the suspect: CosWM asks those of its target class, DAWN those that were answered wrongly, as many as there are",
    "(*of n* says how many; 30,000 logged requests hold about 150 of DAWN's). *Needed*: the smallest of 10, 20, 50,",
    "100, 200 ... from which on p stays at 10^-6 or below, by seed; for CosWM by the extrapolation.",
)
COSTS = (
    "On 10,000 test images. Time: marked and clean API in turn, one thread, median ratio of 40 rounds, in processor",
    "time where nothing else is said; DAWN's hashing runs in Python outside the graph.",
)
APIS = (
    "What a perfect surrogate would show: the rebuilt tests find their marks where these are. If a surrogate shows",
    "nothing, it did not learn the mark.",
)
INNOCENTS = (
    "Models trained on true labels and surrogates of the unmarked API, untouched and fine-tuned, each with several",
    "numbers of queries. With so many tests, the smallest p of a valid test is small by chance: about one over their",
    "number.",
)

VERDICT = (
    "- **DAWN asks the fewest questions of a label attacker whose surrogate remembers.** Fifty of the inputs that it",
    "  answered wrongly convict the separable network, where our tie channel asks thousands of logged inputs. Its",
    "  answers also change less on average. The price is 0.4 to 0.5 points of accuracy, against 0.2 at most for",
    "  ours, answers that are wrong outright, and a mark that the MLP hardly remembers, that fine-tuning takes most",
    "  of, and that has nothing to ask without logs.",
    "- **CosWM costs the least accuracy**, none to speak of. No surrogate here learned its signal, though our",
    "  rebuilt test finds it in the API itself. (Its authors train the model with the signal; here it is added to",
    "  a trained one, as the other marks are.)",
    "- **Ours** is the only one that convicts with fresh queries, and the only one that convicts every surrogate of",
    "  probabilities, fine-tuned or not. It adds 15 per cent to the processor time of this small API in batches of",
    "  one, as DAWN's hashing does and CosWM does not, and two per cent in batches of 256, where DAWN adds eight.",
)

Array = np.ndarray[Any, Any]


def key_of(seed: int) -> dm.MarkKey:
    """A key that anybody can make again, so that the study can be repeated; real keys are random."""
    return dm.MarkKey(hashlib.sha256(f"dynamarks peers study, seed {seed}".encode()).digest(), "Peers Study")


class Rows:
    """The results file: rows by name, written after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.content: dict[str, Any] = {"format": "dynamarks-peers-study", "version": 1, "rows": []}
        if path.exists():
            self.content = json.loads(path.read_text())

    def check_settings(self) -> None:
        """Ends the program if the rows that are there are of other settings."""
        settings = self.content.get("settings", SETTINGS)
        if settings != SETTINGS:
            sys.exit(f"{self._path} is of other settings: {settings}. Move it away, or give another --out.")

    def __contains__(self, name: str) -> bool:
        return any(row["name"] == name for row in self.content["rows"])

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Appends a row and prints it."""
        self.content["rows"].append({"name": name, **row})
        self.content |= {
            "settings": SETTINGS,
            "versions": package_versions(),
        }
        self._path.parent.mkdir(exist_ok=True)
        files.write_atomically(self._path, (json.dumps(self.content, indent=1) + "\n").encode())
        print(name, json.dumps(row), flush=True)


class Study:
    """One seed: the owner model, its marked APIs, the attacker's inputs, and the tests of each scheme."""

    def __init__(self, seed: int, weights: Path | None) -> None:
        images = fashion_mnist.load()
        order = np.random.default_rng(seed).permutation(len(images.x_train))
        x, y = images.x_train[order], images.y_train[order]
        half = len(x) // 2
        self.seed = seed
        self.stolen, self.stolen_labels = x[half:], y[half:]
        self.tuning = images.x_test[:FINE_TUNED], images.y_test[:FINE_TUNED]
        self.fresh = images.x_test[FINE_TUNED:], images.y_test[FINE_TUNED:]
        self.test = images.x_test, images.y_test
        self._weights = weights
        self._num_classes = images.num_classes
        self.owner = self.trained(
            "owner", "pooled_cnn", lambda model: train_classifier(model, x[:half], y[:half], epochs=OWNER_EPOCHS)
        )
        self._key = key_of(seed)
        self.apis: dict[str, Any] = {
            "none": self.owner,
            "ours": dm.mark(self.owner, self._key, BUDGET, tie_margin=TIE_MARGIN),
            "ours-no-ties": dm.mark(self.owner, self._key, BUDGET, tie_margin=0),
        }
        cosine = CosineWatermark(self._key, self._num_classes)
        clean, ours = (
            self.apis[name].predict(x[:half], batch_size=256, verbose=0) for name in ("none", "ours")
        )  # the owner's own images: he can look at no others when he chooses the amplitude
        distortion = float(metrics.total_variation(clean, ours).mean())
        self.epsilon = cosine.epsilon_for(distortion, x[:half], clean)
        make = functools.partial(CosineWatermark, self._key, self._num_classes)
        self.peers: dict[str, Peer] = {
            "cosine": cosine,
            "cosine-others": make(other_classes=True),
            "cosine-equal": make(epsilon=self.epsilon),
            "cosine-equal-others": make(epsilon=self.epsilon, other_classes=True),
            "dawn": DynamicAdversarialWatermark(self._key),
        }
        for name in ("cosine", "cosine-equal", "dawn"):
            self.apis[name] = self.peers[name].mark(self.owner)  # type: ignore[attr-defined]
        self.clean = {"fresh": ask(self.owner, self.fresh[0]), "logged": ask(self.owner, self.stolen)}

    def trained(self, name: str, architecture: str, train: Callable[[keras.Model], Any]) -> keras.Model:
        """A model trained with the seed of the study, or its weights if they are kept."""
        keras.utils.set_random_seed(self.seed)
        model = ARCHITECTURES[architecture](self.stolen.shape[1:], self._num_classes)
        return self._kept(name, model, train)

    def tuned(self, name: str, model: keras.Model) -> keras.Model:
        """The model after fine-tuning."""
        return self._kept(f"{name}-tuned", model, lambda surrogate: removal.fine_tune(surrogate, *self.tuning))

    def _kept(self, name: str, model: keras.Model, train: Callable[[keras.Model], Any]) -> keras.Model:
        path = None if self._weights is None else self._weights / SCHEME / f"{self.seed}-{name}.weights.h5"
        if path is not None and path.exists():
            model.load_weights(path)
        else:
            train(model)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                model.save_weights(path)
        return model

    def surrogate(self, scheme: str, theft: str, architecture: str) -> keras.Model:
        """What the attacker gets."""
        if theft == "true labels":
            targets = self.stolen_labels
        else:
            answers = self.apis[scheme].predict(self.stolen, batch_size=256, verbose=0)
            targets = post_processing.labels_only(answers) if theft == "labels" else answers
        return self.trained(
            f"{scheme}-{theft}-{architecture}",
            architecture,
            lambda model: train_classifier(model, self.stolen, targets, epochs=EPOCHS),
        )

    def costs(self) -> dict[str, Any]:
        """What each mark costs on the test images."""
        clean = self.owner.predict(self.test[0], batch_size=256, verbose=0)
        return {
            name: metrics.mark_cost(clean, api.predict(self.test[0], batch_size=256, verbose=0), self.test[1]).to_dict()
            for name, api in self.apis.items()
        }

    def latencies(self) -> dict[str, dict[str, list[float]]]:
        """Time of each marked API over that of the clean one, interleaved: median, 10 and 90 % of the rounds.

        Processor time of this process, since other work on the machine makes clocks useless.
        """
        answer = {name: api.predict if name == "dawn" else KerasSuspect(api).predict for name, api in self.apis.items()}
        result: dict[str, dict[str, list[float]]] = {}
        for batch, calls in ((1, 20), (256, 1)):
            inputs = self.test[0][:batch]
            times: dict[str, list[float]] = {name: [] for name in answer}
            for _ in range(ROUNDS + 3):
                for name, function in answer.items():
                    start = time.process_time()
                    for _ in range(calls):
                        function(inputs)
                    times[name].append(time.process_time() - start)
            result[f"batch {batch}"] = {
                name: [
                    round(value, 3)
                    for value in _middle([a / b for a, b in zip(times[name][3:], times["none"][3:], strict=True)])
                ]
                for name in answer
                if name != "none"
            }
        return result

    def tests_of_the_apis(self) -> dict[str, Any]:
        """Each peer's tests on the marked API itself: what a perfect surrogate would show."""
        result = {}
        for scheme in ("cosine", "cosine-equal", "dawn"):
            answers = {
                "fresh": self.apis[scheme].predict(self.fresh[0], batch_size=256, verbose=0),
                "logged": self.apis[scheme].predict(self.stolen, batch_size=256, verbose=0),
            }
            for detector in DETECTORS[scheme]:
                result[detector] = self._peer_tests(self.peers[detector], answers, detector.endswith("others"))
        return result

    def tests(
        self, detector: str, suspect: keras.Model, theft: str, answers: dict[str, Array], counts: tuple[int, ...]
    ) -> dict[str, Any]:
        """log10 p by number of queries, fresh and logged."""
        if detector in self.peers:
            return self._peer_tests(self.peers[detector], answers, detector.endswith("others"), counts)
        return self._own_tests(detector, suspect, theft)

    def _own_tests(self, detector: str, suspect: keras.Model, theft: str) -> dict[str, Any]:
        verify = functools.partial(dm.verify, owner=self.apis[detector], key=self._key)
        fresh = {}
        for count in SHOWN:
            fresh[count] = verify(suspect, queries=self.fresh[0], max_queries=count).log10_p
        if fresh[SHOWN[0]] > LOG10_ALPHA and min(fresh.values()) <= LOG10_ALPHA:
            for count in sorted({*COUNTS} - {*SHOWN}):
                if count < SHOWN[-1]:
                    fresh[count] = verify(suspect, queries=self.fresh[0], max_queries=count).log10_p
        logged = verify(suspect, queries=self.stolen, logged=True, batch_size=1000)
        result: dict[str, Any] = {
            "fresh": {str(count): {"log10_p": round(fresh[count], 3), "asked": count} for count in sorted(fresh)},
            "logged": {
                str(point.num_queries): {"log10_p": round(point.log10_p, 3), "asked": point.num_queries}
                for point in logged.growth
            },
        }
        if theft == "labels" and detector == "ours":
            labels = verify(
                lambda batch: np.asarray(suspect(batch, training=False)).argmax(axis=1),
                queries=self.stolen,
                logged=True,
                batch_size=1000,
                suspect_labels=True,
            )
            result["logged, labels only"] = {
                str(point.num_queries): {"log10_p": round(point.log10_p, 3), "asked": point.num_queries}
                for point in labels.growth
            }
        return result

    def _peer_tests(
        self, peer: Peer, answers: dict[str, Array], is_capped: bool, counts: tuple[int, ...] = COUNTS
    ) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, inputs in (("fresh", self.fresh[0]), ("logged", self.stolen)):
            clean = self.clean[name]
            chosen = peer.questions(inputs, clean)
            most = min(len(chosen), MOST_OTHERS) if is_capped else len(chosen)
            asked = sorted({count for count in counts if count < most} | {most})
            result[name] = {
                str(count): peer.evidence(
                    inputs[chosen[:count]], clean[chosen[:count]], answers[name][chosen[:count]]
                ).to_dict()
                for count in asked
                if count
            }
        return result


def run_seed(seed: int, rows: Rows, suspects: list[tuple[str, str]], architectures: list[str], weights: Any) -> None:
    """All suspects of one owner model."""
    study = Study(seed, weights)
    if f"{seed}/owner" not in rows:
        rows.add(f"{seed}/owner", {"seed": seed, "epsilon": study.epsilon, "cost": study.costs()})
    if f"{seed}/latency" not in rows:
        rows.add(f"{seed}/latency", {"seed": seed, "ratios": study.latencies()})
    if f"{seed}/apis" not in rows:
        rows.add(f"{seed}/apis", {"seed": seed, "tests": study.tests_of_the_apis()})
    for architecture in architectures:
        for scheme, theft in suspects:
            name = f"{seed}/{scheme}/{theft}/{architecture}"
            if name in rows:
                continue
            start = time.monotonic()
            row: dict[str, Any] = {"seed": seed, "scheme": scheme, "theft": theft, "architecture": architecture}
            model = study.surrogate(scheme, theft, architecture)
            for state in ("untouched", "fine-tuned"):
                if state == "fine-tuned":
                    model = study.tuned(f"{scheme}-{theft}-{architecture}", model)
                answers = {"fresh": ask(model, study.fresh[0]), "logged": ask(model, study.stolen)}
                counts = SHOWN if scheme == "none" else COUNTS
                row[state] = {
                    "accuracy": metrics.accuracy(answers["fresh"], study.fresh[1]),
                    "tests": {name: study.tests(name, model, theft, answers, counts) for name in DETECTORS[scheme]},
                }
            rows.add(name, {**row, "seconds": round(time.monotonic() - start)})


def needed(points: dict[str, dict[str, float]]) -> int | None:
    """The smallest of the measured counts from which on p stays at 10^-6 or below; `None` if there is none.

    p-values from decoy keys never get there, so for them it goes by the extrapolated figure.
    """
    smallest = None
    for point in sorted(points.values(), key=lambda point: -point["asked"]):
        if point.get("log10_p_extrapolated", point["log10_p"]) > LOG10_ALPHA:
            break
        smallest = int(point["asked"])
    return smallest


def _about_scheme(settings: dict[str, Any]) -> list[str]:
    """What has changed in our mark since these results were made."""
    if settings.get("scheme") == SCHEME:
        return []
    return [
        "",
        "Ours was an earlier scheme here, before the class-choice channel, which makes *soft, logged* stronger:",
        "[class-choice.md](class-choice.md).",
    ]


def report(content: dict[str, Any]) -> str:
    """The document: costs, then strength, the worst of the seeds, then innocents."""
    owners = [row for row in content["rows"] if row["name"].endswith("/owner")]
    runs = [row for row in content["rows"] if "scheme" in row]
    lines = [
        *INTRODUCTION,
        *_about_scheme(content["settings"]),
        "",
        "## Where who wins",
        "",
        *VERDICT,
        "",
        "## What each mark costs",
        "",
        *COSTS,
        "",
        *_cost_table(owners, content["rows"]),
    ]
    for state in ("untouched", "fine-tuned"):
        after = "" if state == "untouched" else f", every layer, {FINE_TUNED:,} true labels, 5 epochs, full rate"
        lines += ["", f"## How strong the evidence is: {state}{after}", "", *_strength_table(runs, state)]
    apis = [row["tests"] for row in content["rows"] if row["name"].endswith("/apis")]
    lines += ["", "## The peers' tests on their own APIs", "", *APIS, "", *_apis_table(apis)]
    lines += ["", "## Innocents", "", *INNOCENTS, "", *_innocents_table(runs)]
    return "\n".join(lines) + "\n"


def _cost_table(owners: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[str]:
    by_processor = [row["ratios"] for row in rows if row["name"].endswith("/latency")]
    ratios = by_processor or [row["latency"] for row in owners if "latency" in row]
    lines = [
        "| scheme | accuracy of the API, change in points by seed | top-1 changed | mean, largest TV "
        "| time over the clean API's, by seed, batch 1; 256 |",
        "|---|---|---|---|---|",
    ]
    for scheme in ("ours", "ours-no-ties", "cosine", "cosine-equal", "dawn"):
        costs = [row["cost"][scheme] for row in owners]
        points = ", ".join(f"{100 * (cost['marked_accuracy'] - cost['clean_accuracy']):+.2f}" for cost in costs)
        changed = np.mean([1 - cost["top1_agreement"] for cost in costs])
        mean, largest = (np.mean([cost[f"{which}_total_variation"] for cost in costs]) for which in ("mean", "max"))
        times = "; ".join(
            ", ".join("{:.2f} ({:.2f}-{:.2f})".format(*ratio[batch][scheme]) for ratio in ratios)
            for batch in ("batch 1", "batch 256")
        )
        lines.append(f"| {_title(scheme, owners)} | {points} | {changed:.2%} | {mean:.4f}, {largest:.4f} | {times} |")
    return lines


def _strength_table(runs: list[dict[str, Any]], state: str) -> list[str]:
    lines = [
        "| test | theft | accuracy | fresh 10 | fresh 100 | fresh 1,000 | logged, all | fresh needed | logged needed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for architecture in sorted({run["architecture"] for run in runs}, reverse=True):
        for theft in ("soft", "labels"):
            for scheme in ("ours", "ours-no-ties", "cosine", "cosine-equal", "dawn"):
                chosen = [
                    run[state]
                    for run in runs
                    if (run["scheme"], run["theft"], run["architecture"]) == (scheme, theft, architecture)
                ]
                for detector in DETECTORS[scheme] if chosen else ():
                    tests = [run["tests"][detector] for run in chosen]
                    label = f"{TITLES[detector]}, {architecture} ({len(chosen)})"
                    accuracy = np.mean([run["accuracy"] for run in chosen])
                    lines.append(f"| {label} | {theft} | {accuracy:.3f} | {_strength_cells(tests, 'logged')} |")
                    if all("logged, labels only" in test for test in tests):
                        cells = _strength_cells(tests, "logged, labels only")
                        lines.append(f"| the same, suspect answers labels only | {theft} | | {cells} |")
    return lines


def _apis_table(apis: list[dict[str, Any]]) -> list[str]:
    head = "| test | fresh 10 | fresh 100 | fresh 1,000 | logged, all | fresh needed | logged needed |"
    lines = [head, "|---" * 7 + "|"]
    for detector in ("cosine", "cosine-others", "cosine-equal", "cosine-equal-others", "dawn") if apis else ():
        lines.append(f"| {TITLES[detector]} | {_strength_cells([tests[detector] for tests in apis], 'logged')} |")
    return lines


def _strength_cells(tests: list[dict[str, Any]], logged: str) -> str:
    cells = []
    has_fresh = logged == "logged"
    for count in SHOWN:
        cells.append(_worst([_largest(test["fresh"], count) for test in tests]) if has_fresh else "-")
    cells.append(_worst([_largest(test[logged], COUNTS[-1]) for test in tests]))
    for name in ("fresh", logged):
        counts = [needed(test[name]) for test in tests]
        cells.append(", ".join("-" if n is None else f"{n:,}" for n in counts) if has_fresh or name == logged else "-")
    return " | ".join(cells)


def _largest(points: dict[str, dict[str, float]], count: int) -> dict[str, float]:
    """The point with the most queries, up to `count`."""
    return max((point for point in points.values() if point["asked"] <= count), key=lambda point: point["asked"])


def _worst(points: list[dict[str, float]]) -> str:
    """The largest log10 p, its extrapolation (in brackets), that of the authors' null [so], and how many were asked."""
    text = f"{max(point['log10_p'] for point in points):.1f}"
    if "log10_p_extrapolated" in points[0]:
        text += f" ({max(point['log10_p_extrapolated'] for point in points):.1f})"
    if "log10_p_published" in points[0]:
        text += f" [{max(point['log10_p_published'] for point in points):.1f}]"
    asked = {int(point["asked"]) for point in points}
    return text if asked <= {*COUNTS} else f"{text} of {min(asked):,}"


def _innocents_table(runs: list[dict[str, Any]]) -> list[str]:
    lines = ["| test | suspects | tests | smallest log10 p | smallest extrapolated |", "|---|---|---|---|---|"]
    innocents = [run for run in runs if run["scheme"] == "none"]
    for detector in DETECTORS["none"]:
        points = [
            point
            for run in innocents
            for state in ("untouched", "fine-tuned")
            for queries in run[state]["tests"][detector].values()
            for point in queries.values()
        ]
        extrapolated = [point["log10_p_extrapolated"] for point in points if "log10_p_extrapolated" in point]
        lines.append(
            f"| {TITLES[detector]} | {2 * len(innocents)} | {len(points)} | {min(p['log10_p'] for p in points):.1f} "
            f"| {f'{min(extrapolated):.1f}' if extrapolated else '-'} |"
        )
    return lines


def _title(scheme: str, owners: list[dict[str, Any]]) -> str:
    if scheme != "cosine-equal":
        return TITLES[scheme]
    return f"{TITLES[scheme]}: " + ", ".join(f"{row['epsilon']:.4f}" for row in owners)


def _middle(values: list[float]) -> list[float]:
    ordered = sorted(values)
    return [statistics.median(ordered), ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", default=[], help="may be repeated")
    parser.add_argument("--report", action="store_true", help="write docs/baselines.md from the results")
    names = ["/".join(pair) for pair in SUSPECTS]
    parser.add_argument("--suspect", choices=names, action="append", help="only this one; may be repeated")
    parser.add_argument("--architecture", choices=ARCHITECTURES, action="append", help="default: separable_cnn")
    parser.add_argument("--threads", type=int, default=0, help="of TensorFlow; 0 takes all cores")
    parser.add_argument("--weights", type=Path, help="folder that keeps trained weights")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    rows = Rows(options.out)
    if options.report:
        REPORT.write_text(report(rows.content))
        print(report(rows.content))
    suspects = [pair for pair in SUSPECTS if not options.suspect or "/".join(pair) in options.suspect]
    if options.seed:
        rows.check_settings()
    for seed in options.seed:
        run_seed(seed, rows, suspects, options.architecture or ["separable_cnn"], options.weights)


if __name__ == "__main__":
    main()
