"""The main task, end to end, on real images: mark a model, serve it, steal it over the wire, detect the surrogate.

Three clients query the marked model, one of whom is the attacker; the request log then shows whose answers were used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf import datasets
from dynamarks_tf._support import files
from dynamarks_tf._support.own_files import make_folders
from dynamarks_tf.attacks.architectures import pooled_cnn, separable_cnn
from dynamarks_tf.attacks.batches import predicted
from dynamarks_tf.attacks.extraction import query_api, train_classifier
from dynamarks_tf.case.result import DEFAULT_ALPHA, VerificationResult
from dynamarks_tf.case.trace import TraceResult
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.export import export_saved_model
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.report import write_report
from dynamarks_tf.request_logs import open_log
from dynamarks_tf.request_logs.client_header import CLIENT_HEADER
from dynamarks_tf.request_logs.reduced_log import ReducedLog
from dynamarks_tf.serving.gateway.launcher import Gateway, find_envoy
from dynamarks_tf.serving.gateway.settings import Settings
from dynamarks_tf.serving.gateway.temporary_folder import temporary_folder
from dynamarks_tf.serving.local_server import LocalServer, ModelServer, open_server
from dynamarks_tf.suspects.addresses import parse_grpc
from dynamarks_tf.suspects.api_key import ApiKey
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.suspects.tf_serving_grpc import GrpcSuspect
from dynamarks_tf.verification.options import SuspectOptions
from dynamarks_tf.verification.owner import Owner, resolve_owner
from dynamarks_tf.verification.trace import trace
from dynamarks_tf.verification.verify import verify
from dynamarks_tf.verification.whole_log import marked_of, reduced
from dynamarks_tf.watermark import marking, metrics
from dynamarks_tf.watermark.params import DEFAULT_BUDGET, DEFAULT_TIE_MARGIN

Array = npt.NDArray[Any]

FORMAT = "dynamarks-demo"
FORMAT_VERSION = 5
MODEL_NAME = "classifier"
NUM_SAVED_QUERIES = 2000
CLIENTS = ("customer-1", "customer-2", "customer-3")
ATTACKER = CLIENTS[1]
QUERY_COUNTS = (10, 100)
LOGGED, SEQUENTIAL = "logged", "sequential"
MOST_QUESTIONS = 1000
BATCH_SIZE = 128
TRAINING_STEPS = 1400


@dataclasses.dataclass(frozen=True)
class SuspectResult:
    """One line of the demo's table.

    Attributes:
        name: how the suspect was made.
        path: its model file.
        is_stolen: whether it was trained on marked answers.
        accuracy: on the test images.
        evidence: the result of `verify` by the queries that were sent: `"10 fresh"`, `"100 fresh"`, `"logged"`, and
            `"sequential"`, which stops as soon as it is enough.
        trace: from which client's answers the suspect learned; `None` for a suspect that answers labels.
    """

    name: str
    path: Path
    is_stolen: bool
    accuracy: float
    evidence: dict[str, VerificationResult]
    trace: TraceResult | None

    @property
    def final(self) -> VerificationResult:
        """The result for the logged queries, which has most channels."""
        return self.evidence[LOGGED]

    @property
    def as_expected(self) -> bool:
        """Whether the mark, and the client whose answers were used, were found if it was stolen, and only then."""
        clients = (ATTACKER,) if self.is_stolen else ()
        traced = self.trace is None or self.trace.detected(DEFAULT_ALPHA) == clients
        return traced and self.final.detected(DEFAULT_ALPHA) == self.is_stolen

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "path": str(self.path),
            "is_stolen": self.is_stolen,
            "accuracy": self.accuracy,
            "evidence": {name: evidence.to_dict() for name, evidence in self.evidence.items()},
            "trace": None if self.trace is None else self.trace.to_dict(),
        }


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """The outcome of the demo.

    Attributes:
        dataset: name of the images.
        cost: cost of the mark for the users of the API.
        suspects: one result for each suspect.
        seconds: duration of the demo.
        folder: folder of all files.
        commands: the `dynamarks` commands that repeat the detections and recheck the evidence.
    """

    dataset: str
    cost: metrics.MarkCost
    suspects: tuple[SuspectResult, ...]
    seconds: float
    folder: Path
    commands: tuple[str, ...]

    @property
    def as_expected(self) -> bool:
        """Whether mark and client were found for every surrogate of the marked API, and for no independent model."""
        return all(suspect.as_expected for suspect in self.suspects)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "dataset": self.dataset,
            "cost": self.cost.to_dict(),
            "suspects": [suspect.to_dict() for suspect in self.suspects],
            "seconds": self.seconds,
            "commands": [*self.commands],
        }


def run_demo(
    folder: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    seed: int = 0,
    budget: float = DEFAULT_BUDGET,
    tie_margin: float = DEFAULT_TIE_MARGIN,
    epochs: int | None = None,
    max_images: int | None = None,
    gateway: bool = False,
    say: Callable[[str], None] = print,
    verbose: bool = True,
) -> DemoResult:
    """Marks a model, serves it, steals it over the wire and detects the surrogate.

    Args:
        folder: an empty or new folder for key, models, queries and report. A new `dynamarks-demo` folder, if omitted.
        data: a folder with Fashion-MNIST's IDX files; see `datasets.load_images`.
        seed: seed of weights, shuffling and the choice of queries. The key is always random.
        budget: largest total variation of the mark.
        tie_margin: how near a tie the key decides. With 0, theft by labels alone cannot be detected.
        epochs: passes over the data for every model; if omitted, enough for about 1,400 steps.
        max_images: maximum number of training images; for tests.
        gateway: whether the marked model is queried through Envoy, which names clients and logs them.
        say: receives each line of explanation.
        verbose: whether to show progress on standard error.

    Returns:
        The result; it is also written to `report.json` in the folder.

    Raises:
        ArgumentError: the folder is not empty.
        ServingError: there is no Envoy for the gateway.
    """
    if gateway:
        find_envoy()
    start = time.monotonic()
    out = _new_folder(folder)
    keras.utils.set_random_seed(seed)
    images = datasets.load_images(data)
    owner_x, owner_y, attacker_x, attacker_y = _halves(images, max_images)
    train: dict[str, Any] = {
        "epochs": epochs or -(-TRAINING_STEPS * BATCH_SIZE // len(attacker_x)),
        "batch_size": BATCH_SIZE,
        "verbose": verbose,
    }
    shape, num_classes = images.x_train.shape[1:], images.num_classes
    say(
        f"Images: {images.name} from {images.source}; {len(owner_x)} for the owner, {len(attacker_x)} for the attacker."
    )

    clean = train_classifier(
        pooled_cnn(shape, num_classes), owner_x, owner_y, description="training the owner model", **train
    )
    key = MarkKey.generate(owner="Demo Owner")
    key.save(out / "owner.key")
    say(f"Key: {out / 'owner.key'}; commitment to publish now: {key.commitment}")
    marked = marking.mark(clean, key, budget, tie_margin=tie_margin)
    clean_answers, marked_answers = (predicted(model, images.x_test) for model in (clean, marked))
    cost = metrics.mark_cost(clean_answers, marked_answers, images.y_test)
    say(
        f"Marked with budget {budget}, tie margin {tie_margin}: accuracy {cost.clean_accuracy:.4f} -> "
        f"{cost.marked_accuracy:.4f}, top-1 agreement {cost.top1_agreement:.4f}, total variation mean "
        f"{cost.mean_total_variation:.4f}, max {cost.max_total_variation:.4f}"
    )
    _save_model(clean, out / "owner.keras")
    _save_model(marked, out / "marked.keras")

    served = out / "served"
    saved, *others = _fresh_and_others(images.x_test)
    asked = dict(zip(CLIENTS, [others[0], attacker_x, others[1]], strict=True))
    answers = _answers_over_the_wire(
        marked, served / "marked" / MODEL_NAME, asked, say, verbose, out / "logs", gateway=gateway
    )
    asked = {ATTACKER: attacker_x}
    unmarked_answers = _answers_over_the_wire(clean, served / "unmarked" / MODEL_NAME, asked, say, verbose, None)
    np.save(out / "queries.npy", saved)

    owner = resolve_owner(out / "marked.keras", key)
    log = _reduced_log(out / "logs", owner, key)

    def tested(name: str, file: str, targets: Array, *, is_stolen: bool, answers_labels: bool = False) -> SuspectResult:
        model = separable_cnn(shape, num_classes)
        train_classifier(model, attacker_x, targets, description=f"suspect {name}", **train)
        _save_model(model, out / file)
        accuracy = metrics.accuracy(predicted(model, images.x_test), images.y_test)
        suspect = _labels_of(model) if answers_labels else KerasSuspect(out / file)
        return SuspectResult(name, out / file, is_stolen, accuracy, *_evidence(suspect, out, log, owner, key, seed))

    suspects = [tested("trained on marked probabilities", "surrogate.keras", answers, is_stolen=True)]
    if tie_margin:
        labels = answers.argmax(axis=1)
        name, file = "trained on marked labels, answers labels", "label-surrogate.keras"
        suspects.append(tested(name, file, labels, is_stolen=True, answers_labels=True))
    suspects += [
        tested("trained on the unmarked API", "surrogate-of-unmarked.keras", unmarked_answers, is_stolen=False),
        tested("trained on true labels", "independent.keras", attacker_y, is_stolen=False),
    ]
    _report(out, key, say)
    seconds = time.monotonic() - start
    result = DemoResult(images.name, cost, tuple(suspects), seconds, out, _commands(out, seed, tie_margin))
    files.write_atomically(out / "report.json", (json.dumps(result.to_dict(), indent=2) + "\n").encode())
    return result


def _answers_over_the_wire(
    model: keras.Model,
    folder: Path,
    asked: dict[str, Array],
    say: Callable[[str], None],
    verbose: bool,
    request_log: Path | None,
    *,
    gateway: bool = False,
) -> Array:
    """Serves a model, which each client queries with its inputs, and returns what the attacker was answered.

    With a request log, through the server that can log, or through a gateway, which logs before any server.
    """
    export_saved_model(model, folder / "1")
    server: ModelServer = (
        open_server(folder, grpc_port=0, rest_port=0)
        if request_log is None or gateway
        else LocalServer(folder, grpc_port=0, rest_port=0, request_log=request_log)
    )
    with server, contextlib.ExitStack() as stack:
        url, through = server.grpc_url, ""
        if gateway:
            place = stack.enter_context(temporary_folder())
            chosen = Settings(folder=place, upstream=server.grpc_address, grpc_port=0)
            envoy = stack.enter_context(Gateway(chosen, log_dir=request_log))
            url, through = f"grpc://{envoy.grpc_address}/{server.name}", " behind Envoy"
        logged = f"; all requests are logged to {request_log}" if request_log else ""
        others = "".join(f", {client} {len(asked[client])} others" for client in asked if client != ATTACKER)
        say(
            f"Serving {folder} by {type(server).__name__}{through} at {url}; {ATTACKER}, the attacker, queries "
            f"{len(asked[ATTACKER])} images{others}{logged}."
        )
        return {client: _queried(url, client, inputs, verbose) for client, inputs in asked.items()}[ATTACKER]


class _ClientName(ApiKey):
    """A client's name in the header that servers log; no secret, so it may be shown."""

    def __post_init__(self) -> None:
        """Keeps nothing out of texts."""


def _queried(url: str, client: str, inputs: Array, verbose: bool) -> Array:
    """What a client is answered, who is named by the header that servers log."""
    address = parse_grpc(url)
    api = GrpcSuspect(address.host, address.port, address.name, api_key=_ClientName(client, CLIENT_HEADER))
    try:
        return query_api(api, inputs, verbose=verbose)
    finally:
        api.close()


def _labels_of(model: keras.Model) -> Callable[[Array], Array]:
    """The model as an API that answers with labels only."""

    def answers_labels(batch: Array) -> Array:
        return np.asarray(np.asarray(model(batch, training=False)).argmax(axis=1))

    return answers_labels


def _reduced_log(folder: Path, owner: Owner, key: MarkKey) -> ReducedLog:
    """The request log, read once for all suspects."""
    log = open_log(folder)
    return ReducedLog(reduced(log, marked_of(owner, owner.codebook(key).keyed_hash)), log.selection, log.paths)


def _evidence(
    suspect: KerasSuspect | Callable[[Array], Array], out: Path, log: ReducedLog, owner: Owner, key: MarkKey, seed: int
) -> tuple[dict[str, VerificationResult], TraceResult | None]:
    common: dict[str, Any] = {"owner": owner, "key": key, "seed": seed}
    if not isinstance(suspect, KerasSuspect):  # labels can be tested on logged queries only
        options = SuspectOptions(labels=True, batch_size=1000)
        stopped = verify(suspect, queries=log, sequential=True, suspect_options=options, **common)
        return {LOGGED: verify(suspect, queries=log, suspect_options=options, **common), SEQUENTIAL: stopped}, None
    assert suspect.path is not None
    bundle, options = out / f"{suspect.path.stem}-bundle.zip", SuspectOptions(batch_size=1000)
    fresh = {
        f"{count} fresh": verify(suspect, queries=out / "queries.npy", max_queries=count, **common)
        for count in QUERY_COUNTS
    }
    traced = trace(suspect, log=log, suspect_options=options, bundle=bundle, **common)
    common |= {"fresh": out / "queries.npy", "max_queries": MOST_QUESTIONS, "suspect_options": options}
    stopped = verify(suspect, queries=log, sequential=True, **common)
    return {**fresh, LOGGED: traced.verification, SEQUENTIAL: stopped}, traced


def _report(out: Path, key: MarkKey, say: Callable[[str], None]) -> None:
    """Writes the report on the surrogate trained on probabilities, if the libraries for it are installed."""
    page = out / "surrogate-report.html"
    try:
        write_report(page, out / "surrogate-bundle.zip", key=key)
        say(f"Report on the first suspect, for people: {page}")
    except ArgumentError as error:
        say(f"no report for people: {error}")


def _commands(out: Path, seed: int, tie_margin: float) -> tuple[str, ...]:
    program = _program()
    owner = ["--owner", out / "marked.keras", "--key", out / "owner.key"]
    fresh = ["--queries", out / "queries.npy", "--max-queries", max(QUERY_COUNTS), "--seed", seed]
    commands = [
        [program, "verify", out / "surrogate.keras", *owner, *fresh],
        [program, "verify", out / "surrogate.keras", *owner, *fresh, "--log", out / "logs", "--sequential"],
        [program, "trace", out / "surrogate.keras", *owner, "--log", out / "logs"],
        [program, "check", out / "surrogate-bundle.zip", "--key", out / "owner.key"],
    ]
    if tie_margin:
        commands.append([program, "verify", out / "label-surrogate.keras", *owner, "--log", out / "logs"])
    return tuple(shlex.join(str(word) for word in words) for words in commands)


def _program() -> str:
    """How to call `dynamarks`: by its name if it is on PATH, otherwise by the path that it was called by."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "dynamarks" and shutil.which("dynamarks") is None else "dynamarks"


def _halves(images: datasets.ImageData, max_images: int | None) -> tuple[Array, Array, Array, Array]:
    x, y = images.x_train[:max_images], images.y_train[:max_images]
    half = len(x) // 2
    return x[:half], y[:half], x[half:], y[half:]


def _fresh_and_others(images: Array) -> list[Array]:
    """Fresh queries, and what the two other clients ask: real images that neither owner nor attacker trains on."""
    fresh = min(NUM_SAVED_QUERIES, len(images) // 2)
    return [images[:fresh], *np.array_split(images[fresh:], 2)]


def _save_model(model: keras.Model, path: Path) -> None:
    with files.new_file(path) as temporary:
        model.save(temporary)


def _new_folder(folder: str | os.PathLike[str] | None) -> Path:
    if folder is None:
        names = ["dynamarks-demo", *(f"dynamarks-demo-{number}" for number in range(2, 1000))]
        folder = next(name for name in names if not os.path.exists(name))
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ArgumentError(f"The output folder {path} is not empty. Name a new one; nothing is overwritten.")
    make_folders(path, files.PRIVATE_FOLDER)
    return path
