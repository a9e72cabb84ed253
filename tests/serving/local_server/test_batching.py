"""Requests that are run together: nobody gets another's rows, and whoever cannot be served is told why."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamarks_tf.serving.local_server import LocalServer
from dynamarks_tf.serving.local_server.batching import Batcher
from dynamarks_tf.serving.local_server.config_files import BatchingConfig
from dynamarks_tf.serving.protocol.status import Code, StatusError
from tests.helpers.server_clients import stub

Array = np.ndarray[Any, Any]


class RequestLogger:
    """Something to run: doubles its input, remembers the sizes it was given, and can be held up."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.timeouts: list[float | None] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, inputs: list[Array], timeout_s: float | None) -> list[Array]:
        self.go.wait(30)
        self.sizes.append(len(inputs[0]))
        self.timeouts.append(timeout_s)
        return [2 * inputs[0]]


@pytest.fixture
def recorder() -> RequestLogger:
    return RequestLogger()


def batcher(**options: Any) -> Batcher:
    return Batcher(BatchingConfig(**{"num_batch_threads": 1, **options}))


def rows(*values: float) -> list[Array]:
    return [np.array(values, np.float32)]


def code_of(future: Future[Any]) -> str:
    error = future.exception(30)
    assert isinstance(error, StatusError)
    return error.code.name


def wait_until_waiting(tested: Batcher, tasks: int) -> None:
    while sum(len(batch.tasks) for batch in tested._waiting) < tasks:
        time.sleep(0.001)


def test_requests_that_wait_are_run_together_and_each_gets_its_own_rows(recorder: RequestLogger) -> None:
    tested = batcher()
    recorder.go.clear()
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(tested.run, "sig", rows(0), recorder, None)
        while tested._waiting or first.done():
            time.sleep(0.001)
        later = [pool.submit(tested.run, "sig", rows(*range(n)), recorder, None) for n in range(1, 9)]
        wait_until_waiting(tested, 8)
        recorder.go.set()
        for number, future in enumerate(later, 1):
            np.testing.assert_array_equal(future.result(30)[0], 2 * np.arange(number))
    assert recorder.sizes == [1, 36]
    tested.close()


def test_a_full_batch_does_not_wait_for_its_time(recorder: RequestLogger) -> None:
    tested = batcher(max_batch_size=4, batch_timeout_micros=60_000_000)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(tested.run, "sig", rows(index, index), recorder, None) for index in range(2)]
        assert [future.result(30)[0].tolist() for future in futures] == [[0, 0], [2, 2]]
    assert recorder.sizes == [4]
    tested.close()


def test_only_equal_signatures_dtypes_and_shapes_are_put_together(recorder: RequestLogger) -> None:
    tested = batcher(max_batch_size=2, batch_timeout_micros=60_000_000)
    kinds = [
        ("a", np.ones((1, 2), np.float32)),
        ("b", np.ones((1, 2), np.float32)),
        ("a", np.ones((1, 3), np.float32)),
        ("a", np.ones((1, 2), np.float64)),
    ]
    with ThreadPoolExecutor(8) as pool:
        futures = [(array, pool.submit(tested.run, name, [array], recorder, None)) for name, array in 2 * kinds]
        for array, future in futures:
            np.testing.assert_array_equal(future.result(30)[0], 2 * array, strict=True)
    assert recorder.sizes == [2, 2, 2, 2]
    tested.close()


def test_batches_are_padded_to_an_allowed_size_and_cut_again(recorder: RequestLogger) -> None:
    tested = batcher(max_batch_size=8, allowed_batch_sizes=(4, 8))
    for number, size in ((1, 4), (4, 4), (5, 8), (0, 0)):
        assert tested.run("sig", rows(*range(number)), recorder, None)[0].tolist() == [2 * n for n in range(number)]
        assert recorder.sizes[-1] == size
    tested.close()


def test_large_batches_are_run_in_steps(recorder: RequestLogger) -> None:
    tested = batcher(max_batch_size=10, max_execution_batch_size=4)
    assert tested.run("sig", rows(*range(10)), recorder, None)[0].tolist() == list(range(0, 20, 2))
    assert recorder.sizes == [4, 4, 2]
    tested.close()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "must have at least one input tensor"),
        ([np.float32(1)], "must have at least one dimension"),
        ([np.ones(2), np.ones(3)], "must have equal 0th-dimension size"),
        ([np.ones(1001)], "Task size 1001 is larger than maximum input batch size 1000"),
    ],
)
def test_inputs_that_cannot_be_batched(recorder: RequestLogger, inputs: Any, message: str) -> None:
    tested = batcher()
    with pytest.raises(StatusError, match=f"INVALID_ARGUMENT: .*{message}"):
        tested.run("sig", inputs, recorder, None)
    tested.close()


@pytest.mark.parametrize(("output", "message"), [(np.float32(1), "has 0 dimensions"), (np.ones(3), "does not equal")])
def test_outputs_that_are_not_rows(output: Any, message: str) -> None:
    tested = batcher()
    with pytest.raises(StatusError, match=f"FAILED_PRECONDITION: .*{message}"):
        tested.run("sig", rows(1), lambda *_: [np.asarray(output)], None)
    tested.close()


def test_a_failure_hits_every_request_of_the_batch_and_no_other(recorder: RequestLogger) -> None:
    def fail(inputs: list[Array], timeout_s: float | None) -> list[Array]:
        raise StatusError(Code.ABORTED, "broken")

    tested = batcher(max_batch_size=2, batch_timeout_micros=60_000_000)
    with ThreadPoolExecutor(3) as pool:
        failing = [pool.submit(tested.run, "sig", rows(1), fail, None) for _ in range(2)]
        other = pool.submit(tested.run, "other", rows(1, 1), recorder, None)
        assert [str(future.exception(30)) for future in failing] == ["ABORTED: broken"] * 2
        assert other.result(30)[0].tolist() == [2, 2]
    tested.close()


def test_a_bug_is_answered_too(caplog: pytest.LogCaptureFixture) -> None:
    tested = batcher()
    with pytest.raises(StatusError, match="INTERNAL: Internal error; the server's log"):
        tested.run("sig", rows(1), lambda *_: 1 / 0, None)
    assert "ZeroDivisionError" in caplog.text
    tested.close()


def test_a_full_queue_refuses_and_a_request_that_waited_too_long_is_not_run(recorder: RequestLogger) -> None:
    tested = batcher(max_batch_size=1, max_enqueued_batches=2)
    recorder.go.clear()
    with ThreadPoolExecutor(4) as pool:
        running = pool.submit(tested.run, "sig", rows(1), recorder, 60)
        while tested._waiting or running.done():
            time.sleep(0.001)
        waiting = [pool.submit(tested.run, "sig", rows(1), recorder, seconds) for seconds in (0.01, None)]
        wait_until_waiting(tested, 2)
        with pytest.raises(StatusError, match="UNAVAILABLE: .*queue to which this task was submitted is full"):
            tested.run("sig", rows(1), recorder, None)
        time.sleep(0.02)
        recorder.go.set()
        assert running.result(30)[0].tolist() == [2]
        assert code_of(waiting[0]) == "RESOURCE_EXHAUSTED"
        assert waiting[1].result(30)[0].tolist() == [2]
    assert recorder.sizes == [1, 1]
    assert recorder.timeouts[0] is not None
    assert recorder.timeouts[1] is None
    tested.close()


def test_closing_answers_what_waits(recorder: RequestLogger) -> None:
    tested = batcher(batch_timeout_micros=60_000_000)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(tested.run, "sig", rows(1), recorder, None)
        wait_until_waiting(tested, 1)
        tested.close()
        assert code_of(waiting) == "UNAVAILABLE"
    with pytest.raises(StatusError, match="UNAVAILABLE: The server is stopping"):
        tested.run("sig", rows(1), recorder, None)


@settings(max_examples=20)
@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=12),
    options=st.sampled_from(
        [{}, {"max_batch_size": 7}, {"max_batch_size": 12, "allowed_batch_sizes": (5, 12), "num_batch_threads": 2}]
    ),
)
def test_nobody_gets_anothers_rows(sizes: list[int], options: dict[str, Any]) -> None:
    tested = batcher(batch_timeout_micros=500, max_enqueued_batches=100, **options)
    recorder = RequestLogger()
    arrays = [100 * index + np.arange(size, dtype=np.float32) for index, size in enumerate(sizes)]
    with ThreadPoolExecutor(len(sizes)) as pool:
        answers = list(pool.map(lambda array: tested.run("sig", [array], recorder, None)[0], arrays))
    for array, answer in zip(arrays, answers, strict=True):
        np.testing.assert_array_equal(answer, 2 * array, strict=True)
    tested.close()


# In the server


@pytest.fixture(scope="module")
def batching_server(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("batching") / "batching.config"
    file.write_text("max_batch_size { value: 32 } batch_timeout_micros { value: 1000 } num_batch_threads { value: 2 }")
    with LocalServer(zoo, grpc_port=0, rest_port=0, batching_parameters_file=file) as server:
        yield server


def test_the_server_gives_each_client_its_own_rows(batching_server: LocalServer, make_request: Any) -> None:
    def ask(number: int) -> bool:
        values = np.arange(number % 5 + 1, dtype=np.float32) + 10 * number
        if number % 2:
            body = {"signature_name": "combine", "inputs": {"a": values.tolist(), "b": [1] * len(values)}}
            answer = requests.post(batching_server.rest_url + ":predict", json=body, timeout=30).json()["outputs"]
            return bool(answer == {"sum": (values + 1).tolist(), "product": values.tolist()})
        with stub(batching_server) as service:
            outputs = service.Predict(make_request("echo_float32", x=values), timeout=30).outputs
        return list(outputs["y"].float_val) == values.tolist()

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(64)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"instances": [[1.0, 2.0, 3.0, 4.0]] * 33}, "Task size 33 is larger than maximum input batch size 32"),
        ({"signature_name": "echo_float32", "inputs": 1.0}, "must have at least one dimension"),
        ({"signature_name": "with_scalar", "inputs": [1.0]}, "Batched output tensor has 0 dimensions"),
        ({"signature_name": "uneven", "inputs": [1.0]}, "does not equal the sum of the 0th dimension sizes"),
        ({"instances": [[1.0, 2.0]]}, "Matrix size-incompatible"),
    ],
)
def test_what_cannot_be_batched_is_refused(batching_server: LocalServer, body: Any, message: str) -> None:
    response = requests.post(batching_server.rest_url + ":predict", json=body, timeout=30)
    assert response.status_code == 400
    assert message in response.json()["error"]


def test_strings_are_batched(batching_server: LocalServer) -> None:
    body = {"signature_name": "text", "instances": ["a", {"b64": "Yg=="}]}
    response = requests.post(batching_server.rest_url + ":predict", json=body, timeout=30)
    assert response.json() == {"predictions": ["a", "b"]}
