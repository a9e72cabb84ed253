"""This project's mark beside the published output-side marks: the same attacks, the same data, the same run.

    python benchmarks/studies/baselines/study.py --seed 0 --seed 1 --seed 2    # half an hour a seed on one core
    python benchmarks/studies/baselines/study.py --report                      # writes docs/baselines.md

For each seed: a new owner model on one half of the training images and a new key. Each scheme marks that model. An
attacker asks each API the other half and trains a surrogate on the answers, or on their labels. Fine-tuning uses 3,000
test images with their true labels. Fresh queries come from the other 7,000; logged queries are those that the attacker
sent. Independent models are one trained on true labels and the surrogates of the unmarked API.

No setting was chosen on these figures: the baselines run as published, ours at the settings of its own study.

Rows are appended to the file of results as they come; rows that are there already are not computed again. A row keeps
the points that the page shows, not the whole curve. `--weights` keeps the trained weights, so that changed tests need
no training.
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

import keras
import numpy as np
import tensorflow as tf

import dynamarks_tf as dm
from benchmarks import result_file
from benchmarks.studies import fashion_mnist
from benchmarks.studies.baselines import CosineWatermark, DynamicAdversarialWatermark, page
from benchmarks.studies.baselines.evidence import Baseline, ask
from benchmarks.studies.baselines.page import COUNTS, DETECTORS, FINE_TUNED, SHOWN
from dynamarks_tf.attacks import post_processing, removal
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.verification.provenance import package_versions
from dynamarks_tf.watermark import metrics
from dynamarks_tf.watermark.layer import SCHEME

STUDIES = Path(__file__).parents[1]
RESULTS = STUDIES / "results" / "baselines.json"
REPORT = STUDIES.parents[1] / "docs" / "baselines.md"
BUDGET, TIE_MARGIN = 0.05, 0.5
OWNER_EPOCHS, EPOCHS = 6, 10
SETTINGS = {
    "scheme": SCHEME,
    "budget": BUDGET,
    "tie_margin": TIE_MARGIN,
    "owner_epochs": OWNER_EPOCHS,
    "epochs": EPOCHS,
}
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

Array = np.ndarray[Any, Any]


def key_of(seed: int) -> dm.MarkKey:
    """A key made from the seed, so that the study can be repeated; real keys are random."""
    # The words decide the key: with others, every figure of the study changes.
    return dm.MarkKey(hashlib.sha256(f"dynamarks peers study, seed {seed}".encode()).digest(), "Peers Study")


class Rows:
    """The results file: rows by name, written after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.content: dict[str, Any] = {"settings": SETTINGS, "rows": []}
        if path.exists():
            self.content = json.loads(path.read_text())

    def check_settings(self) -> None:
        """Ends the program if the rows that are there are of other settings."""
        if self.content["settings"] != SETTINGS:
            sys.exit(
                f"{self._path} is of other settings: {self.content['settings']}. Move it away, or give another --out."
            )

    def __contains__(self, name: str) -> bool:
        return any(row["name"] == name for row in self.content["rows"])

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Appends a row and prints it."""
        self.content = {
            "format": "dynamarks-baselines-study",
            "version": 2,
            "settings": SETTINGS,
            "versions": package_versions(),
            "rows": [*self.content["rows"], {"name": name, **row}],
        }
        result_file.write(self._path, self.content)
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
        )  # the owner's own images: the owner has no others when choosing the amplitude
        distortion = float(metrics.total_variation(clean, ours).mean())
        self.epsilon = cosine.epsilon_for(distortion, x[:half], clean)
        make = functools.partial(CosineWatermark, self._key, self._num_classes)
        self.baselines: dict[str, Baseline] = {
            "cosine": cosine,
            "cosine-others": make(other_classes=True),
            "cosine-equal": make(epsilon=self.epsilon),
            "cosine-equal-others": make(epsilon=self.epsilon, other_classes=True),
            "dawn": DynamicAdversarialWatermark(self._key),
        }
        for name in ("cosine", "cosine-equal", "dawn"):
            self.apis[name] = self.baselines[name].mark(self.owner)  # type: ignore[attr-defined]
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
        """The attacker's surrogate."""
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
        """The cost of each mark on the test images."""
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
        """Each baseline's tests of the marked API itself, as of a perfect surrogate."""
        result = {}
        for scheme in ("cosine", "cosine-equal", "dawn"):
            answers = {
                "fresh": self.apis[scheme].predict(self.fresh[0], batch_size=256, verbose=0),
                "logged": self.apis[scheme].predict(self.stolen, batch_size=256, verbose=0),
            }
            for detector in DETECTORS[scheme]:
                result[detector] = reduced(self._baseline_tests(detector, answers))
        return result

    def tests(
        self, detector: str, suspect: keras.Model, theft: str, answers: dict[str, Array], counts: tuple[int, ...]
    ) -> dict[str, Any]:
        """log10 p by number of queries, fresh and logged."""
        if detector in self.baselines:
            return self._baseline_tests(detector, answers, counts)
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
        logged = verify(suspect, queries=self.stolen, logged=True, suspect_options=dm.SuspectOptions(batch_size=1000))
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
                suspect_options=dm.SuspectOptions(labels=True, batch_size=1000),
            )
            result["logged, labels only"] = {
                str(point.num_queries): {"log10_p": round(point.log10_p, 3), "asked": point.num_queries}
                for point in labels.growth
            }
        return result

    def _baseline_tests(
        self, detector: str, answers: dict[str, Array], counts: tuple[int, ...] = COUNTS
    ) -> dict[str, Any]:
        baseline = self.baselines[detector]
        result: dict[str, Any] = {}
        for name, inputs in (("fresh", self.fresh[0]), ("logged", self.stolen)):
            clean = self.clean[name]
            chosen = baseline.questions(inputs, clean)
            most = min(len(chosen), MOST_OTHERS) if detector.endswith("others") else len(chosen)
            asked = sorted({count for count in counts if count < most} | {most})
            result[name] = {
                str(count): baseline.evidence(
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
            row: dict[str, Any] = {"seed": seed, "scheme": scheme, "theft": theft, "architecture": architecture}
            model = study.surrogate(scheme, theft, architecture)
            for state in ("untouched", "fine-tuned"):
                if state == "fine-tuned":
                    model = study.tuned(f"{scheme}-{theft}-{architecture}", model)
                answers = {"fresh": ask(model, study.fresh[0]), "logged": ask(model, study.stolen)}
                counts = SHOWN if scheme == "none" else COUNTS
                keep = smallest if scheme == "none" else reduced
                row[state] = {
                    "accuracy": metrics.accuracy(answers["fresh"], study.fresh[1]),
                    "tests": {
                        detector: keep(study.tests(detector, model, theft, answers, counts))
                        for detector in DETECTORS[scheme]
                    },
                }
            rows.add(name, row)


def reduced(tests: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """What the results keep of the tests of one suspect.

    Args:
        tests: points by number of queries, for each kind of queries.

    Returns:
        For each kind of queries: `points`, those that the page shows, without the scheme's statistic; and `needed`.
    """
    result = {}
    for queries, points in tests.items():
        shown = SHOWN if queries == "fresh" else COUNTS[-1:]
        chosen = [page.largest([*points.values()], count) for count in shown]
        kept = {int(point["asked"]): {k: v for k, v in point.items() if k != "statistic"} for point in chosen}
        result[queries] = {"points": [*kept.values()], "needed": needed(points)}
    return result


def smallest(tests: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """What the results keep of the tests of one independent model: how many there were, and the smallest log10 p."""
    points = [point for of_queries in tests.values() for point in of_queries.values()]
    names = [name for name in ("log10_p", "log10_p_extrapolated") if name in points[0]]
    return {"tests": len(points), **{name: min(point[name] for point in points) for name in names}}


def needed(points: dict[str, dict[str, float]]) -> int | None:
    """The smallest of the measured counts from which on p stays at 10^-6 or below; `None` if there is none.

    p-values from decoy keys never get there, so for them the extrapolated figure counts.
    """
    found = None
    for point in sorted(points.values(), key=lambda point: -point["asked"]):
        if point.get("log10_p_extrapolated", point["log10_p"]) > LOG10_ALPHA:
            break
        found = int(point["asked"])
    return found


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
    parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one for each core")
    parser.add_argument("--weights", type=Path, help="folder that keeps trained weights")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    rows = Rows(options.out)
    if options.report:
        REPORT.write_text(page.report(rows.content))
        print(page.report(rows.content))
    suspects = [pair for pair in SUSPECTS if not options.suspect or "/".join(pair) in options.suspect]
    if options.seed:
        rows.check_settings()
    for seed in options.seed:
        run_seed(seed, rows, suspects, options.architecture or ["separable_cnn"], options.weights)


if __name__ == "__main__":
    main()
