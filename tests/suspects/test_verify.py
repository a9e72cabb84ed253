"""From the command line to the result, with suspects that are neither Keras models nor TensorFlow Serving."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import keras
import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf.case import transcript
from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ArgumentError, SuspectError
from dynamarks_tf.export import export_saved_model
from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers import ROOT, verifying
from tests.helpers.model_server import ModelServer, serving

Array = np.ndarray[Any, Any]
Run = Callable[..., tuple[int, str, str]]

NAMES = tuple(f"digit {number}" for number in range(10))
KEY = "sk-hunter2-0123456789"


@pytest.fixture
def run(tmp_path: Path, owner_model: keras.Model, key: Any, digits: Any, capsys: pytest.CaptureFixture[str]) -> Run:
    """`dynamarks verify SUSPECT ...` with owner, key and 120 queries of the digits."""
    owner_model.save(tmp_path / "owner.keras")
    key.save(tmp_path / "acme.key")
    np.save(tmp_path / "x.npy", digits.x_test[:120])
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    files = {"--owner": "owner.keras", "--key": "acme.key", "--queries": "x.npy"}
    common = [word for option, name in files.items() for word in (option, str(tmp_path / name))]

    def run(suspect: object, *options: object) -> tuple[int, str, str]:
        code = main(["verify", str(suspect), *common, *map(str, options)])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def answers(surrogate: keras.Model, digits: Any) -> Array:
    return np.asarray(surrogate.predict(digits.x_test[:120], verbose=0))


@pytest.fixture(scope="module")
def expected(surrogate: keras.Model, owner_model: keras.Model, key: Any, digits: Any) -> dm.VerificationResult:
    return verifying.verify(surrogate, owner=owner_model, key=key, queries=digits.x_test[:120])


def test_a_file_of_answers_gives_the_evidence_of_the_suspect_itself(
    run: Run, answers: Array, expected: dm.VerificationResult, tmp_path: Path
) -> None:
    path, shuffled = tmp_path / "answers.csv", [NAMES[number] for number in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)]
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["query", *shuffled])
        for row in reversed(range(120)):
            table.writerow([row, *(repr(float(answers[row, NAMES.index(name)])) for name in shuffled)])
    code, out, _ = run(path, "--class-names", tmp_path / "names.txt", "--json")
    assert code == 0
    evidence = json.loads(out)
    assert evidence["log10_p"] == pytest.approx(expected.log10_p, abs=1e-3)
    assert evidence["suspect"] == str(path)
    assert len(evidence["suspect_sha256"]) == 64
    assert run(path, "--class-names", tmp_path / "names.txt", "--max-queries", 60)[0] == 0  # some of them, in order
    code, _, err = run(path)
    assert code == 2
    assert "Say which class each name stands for" in err
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    code, _, err = run(path, "--class-names", tmp_path / "names.txt")
    assert code == 2
    assert "does not answer all of the 120 queries: 1 are missing, the first is number 0" in err


class Columns:
    """The surrogate as a fitted classifier with an order of columns of its own."""

    def __init__(self, model: keras.Model, classes: list[Any]) -> None:
        self.model, self.classes_ = model, np.array(classes)

    def predict(self, rows: Array) -> Array:
        return self.classes_[self.predict_proba(rows).argmax(axis=1)]

    def predict_proba(self, rows: Array) -> Array:
        answers = np.asarray(self.model.predict(rows.reshape(-1, 8, 8, 1), verbose=0))
        numbers = [NAMES.index(name) if name in NAMES else int(name) % 10 for name in map(str, self.classes_)]
        return answers[:, numbers]


@pytest.fixture
def verify(owner_model: keras.Model, key: Any, digits: Any) -> Callable[..., dm.VerificationResult]:
    return lambda suspect, **options: verifying.verify(
        suspect, owner=owner_model, key=key, queries=digits.x_test[:120], **options
    )


@pytest.mark.parametrize("classes", [range(10), range(9, -1, -1), sorted(NAMES), NAMES[::-1]])
def test_columns_are_put_into_the_owners_order(
    verify: Callable[..., dm.VerificationResult], surrogate: keras.Model, expected: dm.VerificationResult, classes: Any
) -> None:
    evidence = verify(Columns(surrogate, list(classes)), class_names=NAMES)
    assert evidence.log10_p == pytest.approx(expected.log10_p, abs=1e-3)


def test_classes_that_the_suspect_lacks_get_probability_zero(
    verify: Callable[..., dm.VerificationResult], surrogate: keras.Model
) -> None:
    class Doubting(Columns):  # so that some probability is left where the missing class is the best
        def predict_proba(self, rows: Array) -> Array:
            return 0.8 * super().predict_proba(rows) + 0.02

    evidence = verify(Doubting(surrogate, [1, 2, 3, 4, 5, 6, 7, 8, 9]), suspect_from_logits=False)
    assert evidence.num_queries == 120


@pytest.mark.parametrize(
    ("classes", "names", "text"),
    [
        (NAMES, None, "answers class names, such as 'digit 0'. Say which class each name stands for"),
        (range(1, 11), None, "columns stand for 1, 2, .*10; the owner's classes are numbered from 0 to 9"),
        ([*NAMES[:9], "10"], NAMES, "columns stand for .*, 10; the owner's classes are named digit 0, .*digit 9"),
        ([0, 0, *range(2, 10)], None, "columns stand for 0, 0, 2"),
    ],
)
def test_columns_of_other_classes_are_refused(
    verify: Callable[..., dm.VerificationResult], surrogate: keras.Model, classes: Any, names: Any, text: str
) -> None:
    with pytest.raises(SuspectError, match=text):
        verify(Columns(surrogate, list(classes)), class_names=names)


def test_fewer_names_than_columns_are_refused(
    verify: Callable[..., dm.VerificationResult], answers: Array, digits: Any, tmp_path: Path
) -> None:
    np.savez(tmp_path / "answers.npz", answers=answers, classes=np.arange(9))
    with pytest.raises(SuspectError, match="answers 10 columns and says what 9 stand for"):
        verify(tmp_path / "answers.npz")


# Servers


def test_a_server_that_describes_nothing_is_asked_as_the_options_say(
    run: Run, answers: Array, expected: dm.VerificationResult
) -> None:
    outputs = {"predict": answers.argmax(axis=1), "predict_proba": answers}
    server = ModelServer(lambda batch: outputs, {"predict": "INT64", "predict_proba": "FP32"}, described=False)
    with serving(server) as url:
        options = ("--input", "pixels", "--datatype", "FP64", "--output", "predict_proba")
        code, out, _ = run(f"{url}/v2/models/clf", *options, "--json")
    assert code == 0
    assert json.loads(out)["log10_p"] == pytest.approx(expected.log10_p, abs=1e-4)
    (tensor,) = server.asked["inputs"]
    assert (tensor["name"], tensor["datatype"]) == ("pixels", "FP64")
    assert server.asked["outputs"] == [{"name": "predict_proba"}]


Start = Callable[[str, int], tuple[Callable[[], None], str]]


@pytest.fixture
def start(surrogate: keras.Model, tmp_path: Path) -> Iterator[Start]:
    """Starts a server of the surrogate for a protocol, on a port; returns what ends it at once, and its address."""
    folder = tmp_path / "served"
    weights = folder / "weights.npz"
    ends: list[Callable[[], None]] = []

    def start(protocol: str, port: int) -> tuple[Callable[[], None], str]:
        if not folder.exists():
            export_saved_model(surrogate, folder / "clf" / "1")
            np.savez(weights, *(weight.numpy() for weight in surrogate.weights))
        if protocol == "grpc":
            server = LocalServer(folder / "clf", grpc_port=port, rest_port=None)
            server.start()
            ends.append(server.stop)
            return server.stop, server.grpc_url
        process = subprocess.Popen(
            [sys.executable, "-u", str(ROOT / "tests" / "helpers" / "model_server.py"), f"{port}", str(weights)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "DYNAMARKS_API_KEY": KEY},
        )
        assert process.stdout is not None
        address = next(line.split()[-1] for line in process.stdout if "://" in line)

        def kill() -> None:
            process.kill()
            process.wait()
            process.stdout.close()

        ends.append(kill)
        return kill, f"{address}/{protocol}/models/clf"

    yield start
    for end in ends:
        end()


@pytest.mark.parametrize("protocol", ["v1", "v2", "grpc"])
def test_a_test_goes_on_when_a_server_that_ended_is_back(
    run: Run,
    start: Start,
    expected: dm.VerificationResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
) -> None:
    monkeypatch.setenv("DYNAMARKS_API_KEY", KEY)
    end, url = start(protocol, 0)
    words = (url, "--batch-size", 25, "--bundle", tmp_path / "bundle.zip", "--json")
    add, written = transcript.Transcript.add, []

    def add_and_end_the_server(*args: Any, **kwargs: Any) -> None:
        add(*args, **kwargs)
        written.append(1)
        if len(written) == 2:
            end()

    monkeypatch.setattr(transcript.Transcript, "add", add_and_end_the_server)
    code, out, err = run(*words)
    assert (code, out, len(written)) == (2, "", 2)
    assert "cannot be reached" in err
    assert "bundle.zip.partial; the same call goes on from there" in err
    _, address = start(protocol, urlsplit(url).port or 0)
    assert address == url
    code, out, log = run(*words)
    assert (code, len(written)) == (0, 5)  # 120 queries in batches of 25, none of them twice
    assert json.loads(out)["log10_p"] == pytest.approx(expected.log10_p, abs=1e-3)
    assert main(["check", str(tmp_path / "bundle.zip")]) == 0
    assert KEY not in err + out + log
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


def test_key_header_is_named_on_the_command_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNAMARKS_API_KEY", raising=False)
    code, _, err = run("http://127.0.0.1:1/v2/models/clf", "--api-key-header", "X-Api-Key")
    assert code == 2
    assert "The header X-Api-Key must carry a key; set the variable DYNAMARKS_API_KEY to it" in err


# The rate of queries


class Clock:
    """Time that passes only while something sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_no_faster_than_allowed(
    verify: Callable[..., dm.VerificationResult],
    surrogate: keras.Model,
    expected: dm.VerificationResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, asked = Clock(), []

    def suspect(batch: Array) -> Array:
        asked.append((clock.now, len(batch)))
        return np.asarray(surrogate.predict(batch, verbose=0))

    monkeypatch.setattr("dynamarks_tf.verification.rate_limiter.time", clock)
    evidence = verify(suspect, rate=50)
    assert asked == [(1000, 50), (1001, 50), (1002, 20)]
    assert evidence.log10_p == pytest.approx(expected.log10_p, abs=1e-3)


def test_less_than_one_query_a_second(
    owner_model: keras.Model, surrogate: keras.Model, key: Any, digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("dynamarks_tf.verification.rate_limiter.time", clock)
    verifying.verify(surrogate, owner=owner_model, key=key, queries=digits.x_test[:4], rate=0.1)
    assert clock.now == 1030


@pytest.mark.parametrize("rate", [0, -1, float("inf"), "fast"])
def test_rates_that_are_refused(
    verify: Callable[..., dm.VerificationResult], surrogate: keras.Model, rate: Any
) -> None:
    with pytest.raises(ArgumentError, match="`rate` must be a number of queries a second above 0"):
        verify(surrogate, rate=rate)


@pytest.mark.parametrize("option", ["signature", "output", "input", "datatype"])
def test_options_that_a_suspect_does_not_have(run: Run, surrogate: keras.Model, tmp_path: Path, option: str) -> None:
    surrogate.save(tmp_path / "suspect.keras")
    code, _, err = run(tmp_path / "suspect.keras", f"--{option}", "x")
    assert code == 2
    assert f"`{option}` (--{option}) does not go with {tmp_path / 'suspect.keras'}, which has no choice of it" in err
