"""Real servers that describe neither inputs nor outputs: MLServer, and KServe's Python server.

`make test-servers` installs both, each for an interpreter of its own: their packages do not go with TensorFlow's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import requests

import dynamarks_tf as dm
from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects import as_suspect
from tests.helpers.suspects import answers_of

Array = np.ndarray[Any, Any]

HERE = Path(__file__).parent / "real_servers"
START_S, TRAIN_S, STOP_S = 90.0, 90.0, 10.0
WITHOUT_OUTPUT = {"mlserver": "labels", "kserve": "probabilities"}
OUTPUT = {"mlserver": "predict_proba", "kserve": "output-0"}


class Served(NamedTuple):
    """A classifier on a server, and its answers."""

    kind: str
    url: str
    queries: Array
    probabilities: Array
    labels: Array


@pytest.fixture(scope="module", params=["mlserver", "kserve"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    kind = request.param
    variable = f"DYNAMARKS_{kind.upper()}_PYTHON"
    if variable not in os.environ:
        pytest.skip(f"{variable} names no Python with {kind}; `make test-servers` installs one")
    python, folder = os.environ[variable], tmp_path_factory.mktemp(kind)
    subprocess.run([python, str(HERE / "train.py"), str(folder)], check=True, timeout=TRAIN_S, env=_environment())
    with np.load(folder / "answers.npz") as content, _running(kind, python, folder) as url:
        yield Served(kind, url, **{name: content[name] for name in content.files})


@contextlib.contextmanager
def _running(kind: str, python: str, folder: Path) -> Iterator[str]:
    """The model of a folder on a server, until the end of the block; yields its address."""
    ports = _free_ports(3)
    url = f"http://127.0.0.1:{ports[0]}/v2/models/clf"
    if kind == "mlserver":
        model = {
            "name": "clf",
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": "model.joblib"},
        }
        (folder / "model-settings.json").write_text(json.dumps(model))
        # Workers of MLServer 1.7.1 do not start with current uvloop, which makes no event loop of its own accord.
        settings = dict(zip(("http_port", "grpc_port", "metrics_port"), ports, strict=True))
        (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "parallel_workers": 0, **settings}))
        words = ["-c", "from mlserver.cli import main; main()", "start", str(folder)]
    else:
        words = [str(HERE / "kserve_server.py"), str(folder), str(ports[0])]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, *words], cwd=folder, env=_environment(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_until_ready(url, process, folder / "log")
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and the processes that it started
        process.wait(STOP_S)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/ready", timeout=1.0).status_code == 200:
                return
        assert process.poll() is None, f"the server ended: {log.read_text(errors='replace')[-3000:]}"
        assert time.monotonic() < deadline, f"not ready in {START_S} s: {log.read_text(errors='replace')[-3000:]}"
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


def _environment() -> dict[str, str]:
    """That of this process, but for the packages that it puts before those of the other interpreter."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def marked(digits: Any, key: dm.MarkKey) -> keras.Model:
    keras.utils.set_random_seed(0)
    owner = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10, activation="softmax")])
    owner.compile("adam", "sparse_categorical_crossentropy")
    owner.fit(digits.x_train.reshape(-1, 64), digits.y_train, epochs=15, verbose=0)
    return dm.mark(owner, key, 0.1)


def test_named_outputs_are_read(served: Served) -> None:
    answers = answers_of(as_suspect(served.url, output=OUTPUT[served.kind]), served.queries)
    np.testing.assert_allclose(answers, served.probabilities, atol=1e-5)


def test_without_a_name_the_only_output_is_read(served: Served) -> None:
    answers = answers_of(as_suspect(served.url), served.queries)
    expected = getattr(served, WITHOUT_OUTPUT[served.kind])
    np.testing.assert_allclose(answers.reshape(expected.shape), expected, atol=1e-5)


def test_types_can_be_said(served: Served) -> None:
    rounded = served.queries.round()
    said = as_suspect(served.url, output=OUTPUT[served.kind], input="images", datatype="INT64")
    inferred = as_suspect(served.url, output=OUTPUT[served.kind])
    np.testing.assert_allclose(answers_of(said, rounded), answers_of(inferred, rounded), atol=1e-6)


def test_refusals_are_explained(served: Served) -> None:
    with pytest.raises(SuspectError, match=r"X has 3 features.* 'input-0' of type FP32 and shape \(2, 3\) was sent"):
        answers_of(as_suspect(served.url), served.queries[:2, :3])
    with pytest.raises(SuspectError, match="nonsense"):
        answers_of(as_suspect(served.url, output="nonsense"), served.queries)
    with pytest.raises(SuspectError, match=r"status 404: .*Check the name of the model"):
        as_suspect(served.url.replace("clf", "other"))


def test_verify_finds_what_it_finds_in_the_model_itself(
    served: Served, marked: keras.Model, key: dm.MarkKey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marked.save(tmp_path / "marked.keras")
    key.save(tmp_path / "acme.key")
    np.save(tmp_path / "x.npy", served.queries)
    files = ["--owner", tmp_path / "marked.keras", "--key", tmp_path / "acme.key", "--queries", tmp_path / "x.npy"]
    code = main(["verify", served.url, *map(str, files), "--output", OUTPUT[served.kind], "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code in (0, 1)

    rows = dict(zip(map(bytes, served.queries), served.probabilities, strict=True))
    expected = dm.verify(
        lambda batch: np.stack([rows[bytes(row)] for row in batch]), owner=marked, key=key, queries=served.queries
    )
    assert found["num_queries"] == len(served.queries)
    assert found["log10_p"] == pytest.approx(expected.log10_p, abs=1e-3)
