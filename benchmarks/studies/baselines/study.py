"""This project's mark beside published watermarks and fingerprints: the same attacks, the same data, the same run.

    python benchmarks/studies/baselines/study.py --seed 0 --seed 1 --seed 2  # 25 minutes a seed, and 25 once
    python benchmarks/studies/baselines/study.py --report                      # writes docs/baselines.md

For each seed: a new owner model on one half of the training images and a new key. Each scheme marks that model. An
attacker asks each API the other half and trains a surrogate on the answers, or on their labels. Fine-tuning uses 3,000
test images with their true labels. Fresh queries come from the other 7,000; logged queries are those that the attacker
sent. A fingerprint tests surrogates of the unmarked API, which the watermarks take for independent models.

The 24 models of `independent_models.py` are independent of every owner model and key of this study. They are trained
once and tested with each seed.

No setting of ours was chosen on these figures. The baselines run at their authors' constants; where one could not be
carried over from another network, the class of the scheme says how it was set instead. One rule was changed after a
first run, in favor of the baseline: which target class Honeytrace takes.

Rows are written as they come; rows that are there already are not computed again. A row keeps the points that the page
shows, not the whole curve, and a digest of the owner model: rows of one seed are of one model. `--weights` keeps the
trained weights, so that changed tests need no training; one folder serves `calibration.py` too. `--jobs` runs several
rows at a time.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import dynamarks_tf as dm
from benchmarks import fused_normalization, result_file
from benchmarks.studies import fashion_mnist, independent_models
from benchmarks.studies.baselines import (
    AnnaKareninaFingerprint,
    CertifiedThreshold,
    CosineWatermark,
    DistillationResistantWatermark,
    DynamicAdversarialWatermark,
    NeuralHoneytrace,
    Questions,
    page,
)
from benchmarks.studies.baselines.evidence import Baseline, MarkedApi, ask
from benchmarks.studies.baselines.page import COUNTS, DETECTORS, FINE_TUNED, SHOWN, SUSPECTS
from benchmarks.studies.independent_models import IndependentModels, kept
from dynamarks_tf.attacks import post_processing, removal
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.evidence.exact_tail import TAIL_RULE
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.verification.owner import resolve_owner
from dynamarks_tf.verification.provenance import package_versions
from dynamarks_tf.watermark import metrics
from dynamarks_tf.watermark.layer import SCHEME

STUDIES = Path(__file__).parents[1]
RESULTS = STUDIES / "results" / "baselines.json"
REPORT = STUDIES.parents[1] / "docs" / "baselines.md"
VERSION = 4
BUDGET, TIE_MARGIN = 0.05, 0.5
OWNER_EPOCHS, EPOCHS = 6, 10
SETTINGS = {
    "scheme": SCHEME,
    "tail": TAIL_RULE,
    "budget": BUDGET,
    "tie_margin": TIE_MARGIN,
    "owner_epochs": OWNER_EPOCHS,
    "epochs": EPOCHS,
    "independent_epochs": independent_models.EPOCHS,
}
MOST_OTHERS = 5000
ROUNDS = 40
Array = np.ndarray[Any, Any]
Points = dict[str, dict[str, dict[str, Any]]]


def key_of(seed: int) -> dm.MarkKey:
    """A key made from the seed, so that the study can be repeated; real keys are random."""
    # The words decide the key: with others, every figure of the study changes.
    return dm.MarkKey(hashlib.sha256(f"dynamarks peers study, seed {seed}".encode()).digest(), "Peers Study")


class Rows:
    """The results file: rows by name, written after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.content: dict[str, Any] = {"version": VERSION, "settings": SETTINGS, "rows": []}
        if path.exists():
            self.content = json.loads(path.read_text())

    def check_settings(self) -> None:
        """Ends the program if the rows that are there are of other settings."""
        if (self.content["version"], self.content["settings"]) != (VERSION, SETTINGS):
            sys.exit(
                f"{self._path} is of version {self.content['version']}, with settings {self.content['settings']}. "
                f"This is version {VERSION}, with {SETTINGS}. Move the file away, or give another --out."
            )

    def __contains__(self, name: str) -> bool:
        return any(row["name"] == name for row in self.content["rows"])

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Adds a row and prints it. Rows are kept in the order of their names, whichever was finished first.

        Ends the program if a row of the same seed is of another owner model.
        """
        others = {each["owner"] for each in self.content["rows"] if each["seed"] == row["seed"]} - {row["owner"]}
        if others:
            sys.exit(
                f"{self._path} has rows of seed {row['seed']} whose owner model is another one, which this run does not"
                " have. Give the folder of --weights that they were made with, or remove the rows of this seed."
            )
        self.content = {
            "format": "dynamarks-baselines-study",
            "version": VERSION,
            "settings": SETTINGS,
            "versions": package_versions(),
            "rows": sorted([*self.content["rows"], {"name": name, **row}], key=lambda row: str(row["name"])),
        }
        result_file.write(self._path, self.content)
        print(name, json.dumps(row), flush=True)


class Study:
    """One seed: the owner model, its marked APIs, the attacker's inputs, and the tests of each scheme."""

    def __init__(self, seed: int, folder: Path) -> None:
        images = fashion_mnist.load()
        order = np.random.default_rng(seed).permutation(len(images.x_train))
        x, y = images.x_train[order], images.y_train[order]
        half = len(x) // 2
        self.seed = seed
        self.stolen = x[half:]
        self.tuning = images.x_test[:FINE_TUNED], images.y_test[:FINE_TUNED]
        self.test = images.x_test, images.y_test
        self._folder = folder
        self._num_classes = images.num_classes
        self.owner = self.trained(
            "owner", "pooled_cnn", lambda model: train_classifier(model, x[:half], y[:half], epochs=OWNER_EPOCHS)
        )
        self._key = key_of(seed)
        drw = DistillationResistantWatermark(self._key, self._num_classes, x[:half])
        honeytrace = NeuralHoneytrace(self._key, self.owner, x[:half], y[:half])
        credit = CertifiedThreshold(self.owner, x[:half])
        cosine, dawn = CosineWatermark(self._key, self._num_classes), DynamicAdversarialWatermark(self._key)
        self.apis: dict[str, keras.Model | MarkedApi] = {
            "none": self.owner,
            "ours": dm.mark(self.owner, self._key, BUDGET, tie_margin=TIE_MARGIN),
            "ours-no-ties": dm.mark(self.owner, self._key, BUDGET, tie_margin=0),
            "dawn": dawn.mark(self.owner),
            "cosine": cosine.mark(self.owner),
            "drw": drw.mark(self.owner),
            "drw-drawn": drw.mark_drawn(self.owner),
            "honeytrace": honeytrace.mark(self.owner),
            "credit": credit.mark(self.owner),
        }
        self.baselines: dict[str, Baseline] = {
            "dawn": dawn,
            "cosine": cosine,
            "cosine-others": CosineWatermark(self._key, self._num_classes, other_classes=True),
            "drw": drw,
            "honeytrace": honeytrace,
            "credit": credit,
            "akh": AnnaKareninaFingerprint(),
        }
        fresh, fresh_labels = images.x_test[FINE_TUNED:], images.y_test[FINE_TUNED:]
        self._pools = {
            "fresh": Questions(fresh, ask(self.owner, fresh), fresh_labels),
            "logged": Questions(self.stolen, ask(self.owner, self.stolen)),
        }
        self.threshold = credit.threshold(len(credit.questions(self._pools["fresh"])))

    def trained(self, name: str, architecture: str, train: Callable[[keras.Model], Any]) -> keras.Model:
        """A model trained with the seed of the study, or its weights if they are kept."""
        keras.utils.set_random_seed(self.seed)
        return self._kept(name, ARCHITECTURES[architecture](self.stolen.shape[1:], self._num_classes), train)

    def tuned(self, name: str, model: keras.Model) -> keras.Model:
        """The model after fine-tuning."""
        return self._kept(f"{name}-tuned", model, lambda surrogate: removal.fine_tune(surrogate, *self.tuning))

    def _kept(self, name: str, model: keras.Model, train: Callable[[keras.Model], Any]) -> keras.Model:
        return kept(self._folder / f"baselines-{SCHEME}-{self.seed}-{name}.weights.h5", model, train)

    def surrogate(self, scheme: str, theft: str, architecture: str) -> keras.Model:
        """The attacker's surrogate."""

        def train(model: keras.Model) -> None:
            answers = self.apis[scheme].predict(self.stolen, batch_size=256, verbose=0)
            targets = post_processing.labels_only(answers) if theft == "labels" else answers
            keras.utils.set_random_seed(self.seed)
            train_classifier(model, self.stolen, targets, epochs=EPOCHS)

        return self.trained(f"{scheme}-{theft}-{architecture}", architecture, train)

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
        answer = {
            name: api.predict if isinstance(api, MarkedApi) else KerasSuspect(api).predict
            for name, api in self.apis.items()
        }
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

    def tests(
        self,
        detector: str,
        suspect: Any,
        counts: tuple[int, ...] = COUNTS,
        kinds: tuple[str, ...] = ("fresh", "sequential", "logged"),
    ) -> Points:
        """Points of the evidence by kind of questions and by number of questions.

        Args:
            detector: name of the test.
            suspect: what is asked.
            counts: how many questions, besides all.
            kinds: of our tests, those to make; `"logged, labels only"` is one more.
        """
        if detector in self.baselines:
            return self._baseline_tests(detector, suspect, counts)
        verify = functools.partial(dm.verify, owner=resolve_owner(self.apis[detector], self._key), key=self._key)
        fresh = self._pools["fresh"].inputs
        result: Points = {}
        if "fresh" in kinds:
            found = [verify(suspect, queries=fresh, max_queries=count) for count in SHOWN if count in counts]
            result["fresh"] = {str(each.num_queries): _point(each.num_queries, each.log10_p) for each in found}
        if "sequential" in kinds:
            stopped = verify(suspect, queries=fresh, max_queries=SHOWN[-1], sequential=True)
            result["sequential"] = {str(stopped.num_queries): _point(stopped.num_queries, stopped.log10_p)}
        of_log = {"logged": suspect, "logged, labels only": _labels_of(suspect)}
        for kind in [each for each in of_log if each in kinds]:
            options = dm.SuspectOptions(labels=kind != "logged")
            evidence = verify(of_log[kind], queries=self._log(detector), suspect_options=options)
            result[kind] = {str(each.num_queries): _point(each.num_queries, each.log10_p) for each in evidence.growth}
        return result

    @functools.cache  # noqa: B019 (a study lives as long as its process)
    def _log(self, detector: str) -> Any:
        """The attacker's requests as a reduced log."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "log.npz"
            np.savez(path, inputs=self.stolen)
            return dm.reduce_log(path, owner=self.apis[detector], key=self._key, out=Path(folder) / "log.reduced")

    @functools.cache  # noqa: B019
    def _questions(self, detector: str, pool: str) -> Questions:
        questions = self.baselines[detector].questions(self._pools[pool])
        return questions.take(slice(MOST_OTHERS)) if detector.endswith("others") else questions

    def _baseline_tests(self, detector: str, suspect: Any, counts: tuple[int, ...]) -> Points:
        baseline = self.baselines[detector]
        result: Points = {}
        for pool in baseline.asks:
            questions = self._questions(detector, pool)
            if not len(questions):
                continue
            answers = ask(suspect, questions.inputs)
            asked = sorted({count for count in counts if count < len(questions)} | {len(questions)})
            result[pool] = {
                str(count): baseline.evidence(questions.take(slice(count)), answers[:count]).to_dict()
                for count in asked
            }
        return result

    def row(self, name: str) -> dict[str, Any]:
        """The row of the results with this name, without the seed in front."""
        row: dict[str, Any] = {"seed": self.seed, "owner": digest_of(self.owner)}
        if name == "owner":
            return {**row, "threshold": self.threshold, "cost": self.costs()}
        if name == "latency":
            return {**row, "ratios": self.latencies()}
        if name == "apis":
            tested = [(scheme, each) for scheme in page.MARKED_BY_OTHERS for each in DETECTORS[scheme]]
            return {**row, "tests": {each: reduced(self.tests(each, self.apis[scheme])) for scheme, each in tested}}
        parts = name.split("/")
        if parts[0] == "independent":
            _, architecture, way = parts
            model = IndependentModels(self._folder).model(architecture, way)
            return {**row, "architecture": architecture, "way": way, **self._of_independent(model)}
        return {**row, **self._of_surrogate(*parts)}

    def _of_surrogate(self, scheme: str, theft: str, architecture: str) -> dict[str, Any]:
        row: dict[str, Any] = {"scheme": scheme, "theft": theft, "architecture": architecture}
        model = self.surrogate(scheme, theft, architecture)
        for state in ("untouched", "fine-tuned"):
            if state == "fine-tuned":
                model = self.tuned(f"{scheme}-{theft}-{architecture}", model)
            kinds = ("logged", "logged, labels only") if theft == "labels" else ("fresh", "sequential", "logged")
            tests = {each: reduced(self.tests(each, model, kinds=kinds)) for each in DETECTORS[scheme]}
            row[state] = {"accuracy": self._accuracy(model), "tests": tests}
            if scheme == "none":  # an independent model, for watermarks
                row[state] |= self._of_independent(model)
        return row

    def _of_independent(self, model: keras.Model) -> dict[str, Any]:
        """The last point of each test of a model that a watermark must not detect; of fingerprints, all points."""
        tests = {each: self.tests(each, model, SHOWN[-1:], ("fresh", "logged")) for each in page.WATERMARKS}
        last = {each: {kind: [*points.values()][-1] for kind, points in found.items()} for each, found in tests.items()}
        points = {each: [*self.tests(each, model)["fresh"].values()] for each in page.FINGERPRINTS}
        return {"accuracy": self._accuracy(model), "independent": last, "fingerprints": points}

    def _accuracy(self, model: keras.Model) -> float:
        fresh = self._pools["fresh"]
        assert fresh.labels is not None
        return metrics.accuracy(ask(model, fresh.inputs), fresh.labels)


def digest_of(model: keras.Model) -> str:
    """Tells one model's weights from another's."""
    return hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest()[:16]


def _labels_of(model: keras.Model) -> Callable[[Array], Array]:
    """The model as an API that answers labels only."""
    return lambda batch: np.asarray(model(batch, training=False)).argmax(axis=1)


def _point(asked: int, log10_p: float) -> dict[str, Any]:
    return {"log10_p": round(log10_p, 3), "asked": asked}


def reduced(tests: Points) -> dict[str, Any]:
    """What the results keep of the tests of one suspect.

    Args:
        tests: points by number of queries, for each kind of queries.

    Returns:
        For each kind of queries: `points`, those that the page shows, and `needed`. The scheme's statistic is kept
        where there is no p-value.
    """
    result = {}
    for queries, points in tests.items():
        shown = COUNTS[-1:] if queries.startswith("logged") else SHOWN
        chosen = [point for count in shown if (point := page.largest([*points.values()], count))]
        if not any("log10_p" in point for point in points.values()):
            chosen = [*points.values()]
        kept_points = {
            int(point["asked"]): {k: v for k, v in point.items() if k != "statistic" or "log10_p" not in point}
            for point in chosen
        }
        result[queries] = {"points": [*kept_points.values()], "needed": needed(points)}
    return result


def needed(points: dict[str, dict[str, Any]]) -> int | None:
    """The smallest of the measured counts from which on p stays at 10^-6 or below; `None` if there is none.

    p-values from decoy keys never get there, so for them the extrapolated figure counts. A scheme without p-value has
    its verdict.
    """
    found = None
    for point in sorted(points.values(), key=lambda point: -point["asked"]):
        if not page.accuses(point):
            break
        found = int(point["asked"])
    return found


def _middle(values: list[float]) -> list[float]:
    ordered = sorted(values)
    return [statistics.median(ordered), ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]]


@functools.lru_cache(maxsize=1)
def study_of(seed: int, folder: Path) -> Study:
    """The study of a seed; the last one is kept."""
    return Study(seed, folder)


def row_of(seed: int, name: str, folder: Path) -> dict[str, Any]:
    """One row, computed in this process."""
    return study_of(seed, folder).row(name)


def set_up(threads: int) -> None:
    """Limits TensorFlow's threads in this process, and speeds training up; before anything is computed."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    fused_normalization.install()


def computed(seed: int, names: list[str], folder: Path, jobs: int, threads: int) -> Iterator[tuple[str, Any]]:
    """Rows of one seed as they are finished, from this process or from several."""
    if jobs == 1:
        set_up(threads)
        for name in names:
            yield name, row_of(seed, name, folder)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, context, set_up, (threads,)) as pool:
        pool.submit(row_of, seed, "owner", folder).result()  # trains the owner model, which all others load
        running = {pool.submit(row_of, seed, name, folder): name for name in names}
        for done in concurrent.futures.as_completed(running):
            yield running[done], done.result()


def names_of(suspects: list[tuple[str, str]], architectures: list[str]) -> list[str]:
    """All rows of a seed."""
    return [
        *("owner", "latency", "apis"),
        *(f"{scheme}/{theft}/{architecture}" for architecture in architectures for scheme, theft in suspects),
        *(
            f"independent/{architecture}/{way}"
            for way in independent_models.WAYS
            for architecture in independent_models.ARCHITECTURES
        ),
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", default=[], help="may be repeated")
    parser.add_argument("--report", action="store_true", help="write docs/baselines.md from the results")
    names = ["/".join(pair) for pair in SUSPECTS]
    parser.add_argument("--suspect", choices=names, action="append", help="only this one; may be repeated")
    parser.add_argument("--architecture", choices=ARCHITECTURES, action="append", help="default: separable_cnn")
    parser.add_argument("--jobs", type=int, default=1, help="how many rows are computed at a time")
    parser.add_argument(
        "--threads", type=int, default=0, help="threads of TensorFlow in each job; 0: one for each core"
    )
    parser.add_argument("--weights", type=Path, help="folder that keeps trained weights")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    options = parser.parse_args()
    rows = Rows(options.out)
    if options.report:
        REPORT.write_text(page.report(rows.content))
        print(page.report(rows.content))
        return
    rows.check_settings()
    suspects = [pair for pair in SUSPECTS if not options.suspect or "/".join(pair) in options.suspect]
    with contextlib.ExitStack() as stack:
        folder = options.weights or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for seed in options.seed:
            planned = names_of(suspects, options.architecture or ["separable_cnn"])
            missing = [name for name in planned if f"{seed}/{name}" not in rows]
            for name, row in computed(seed, missing, folder, options.jobs, options.threads):
                rows.add(f"{seed}/{name}", row)


if __name__ == "__main__":
    main()
