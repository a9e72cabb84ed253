"""Metrics: TensorFlow Serving's names and labels, in a text that the parser of Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis import get_model_metadata_pb2

from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.server_clients import over_rest, predict_request, stub, with_spec

NAMES = ":tensorflow:serving:"


@pytest.fixture
def server(zoo: Path, tmp_path: Path) -> Iterator[LocalServer]:
    file = tmp_path / "monitoring.config"
    file.write_text("prometheus_config { enable: true }")
    with LocalServer(zoo, grpc_port=0, rest_port=0, monitoring_config_file=file) as running:
        yield running


def samples(server: LocalServer) -> dict[tuple[str, ...], float]:
    """Returns the values by name and label values, ordered by the labels' names; the parser adds a `_total`."""
    response = requests.get(server.metrics_url, timeout=30)
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain")
    return {
        (
            sample.name.removeprefix(NAMES).removesuffix("_total"),
            *(value for _, value in sorted(sample.labels.items())),
        ): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_requests_are_counted_under_tensorflow_servings_names(server: LocalServer, images: np.ndarray) -> None:
    assert server.metrics_url == f"http://127.0.0.1:{server.rest_port}/monitoring/prometheus/metrics"
    body = {"instances": images.tolist()}
    over_rest(server, body)
    over_rest(server, {})
    over_rest(server, body, model="x" * 50)
    requests.get(server.rest_url, timeout=30)
    requests.options(server.rest_url, timeout=30)
    with stub(server) as service:
        service.Predict(predict_request("zoo", image=images), timeout=30)
        with pytest.raises(grpc.RpcError):
            service.Predict(predict_request("zoo", "x", image=images), timeout=30)
        metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        with_spec(metadata, name="zoo")
        service.GetModelMetadata(metadata, timeout=30)  # not counted, as in TensorFlow Serving
    found = samples(server)
    counts = {key[1:]: value for key, value in found.items() if key[0] == "request_count"}
    assert counts == {
        ("zoo", "OK"): 3,
        ("zoo", "INVALID_ARGUMENT"): 1,
        ("zoo", "FAILED_PRECONDITION"): 1,
        ("(unknown)", "NOT_FOUND"): 1,
        ("", "FAILED_PRECONDITION"): 1,
    }
    latencies = {key[1:]: value for key, value in found.items() if key[0] == "request_latency_count"}
    assert latencies == {("predict", "REST", "zoo"): 1, ("", "REST", "zoo"): 1, ("Predict", "GRPC", "zoo"): 1}
    assert found["runtime_latency_count", "Predict", "zoo", "TF1"] == 2
    assert found["request_latency_bucket", "Predict", "GRPC", "+Inf", "zoo"] == 1
    assert found["request_latency_bucket", "Predict", "GRPC", "10.0", "zoo"] == 0
    assert found["request_latency_sum", "Predict", "GRPC", "zoo"] > 10


def test_the_text_is_as_tensorflow_serving_writes_it(server: LocalServer) -> None:
    requests.get(server.rest_url, timeout=30)
    lines = requests.get(server.metrics_url, timeout=30).text.splitlines()
    assert f"# TYPE {NAMES}request_count counter" in lines
    assert f'{NAMES}request_count{{model_name="zoo",status="OK"}} 1.0' in lines
    assert f"# TYPE {NAMES}request_latency histogram" in lines
    assert not [line for line in lines if "# HELP" in line or "_total" in line or "_created" in line]


def test_a_query_string_is_refused(server: LocalServer) -> None:
    response = requests.get(server.metrics_url + "?x=1", timeout=30)
    assert (response.status_code, response.text) == (
        400,
        "Unexpected path: /monitoring/prometheus/metrics?x=1. Should be /monitoring/prometheus/metrics",
    )


def test_the_path_can_be_chosen_and_the_page_left_out(zoo: Path, tmp_path: Path, server: LocalServer) -> None:
    file = tmp_path / "monitoring.config"
    for text, status in (('enable: true path: "/m"', 200), ('enable: false path: "/m"', 404)):
        file.write_text(f"prometheus_config {{ {text} }}")
        with LocalServer(zoo, grpc_port=None, rest_port=0, monitoring_config_file=file) as other:
            assert requests.get(f"http://127.0.0.1:{other.rest_port}/m", timeout=30).status_code == status
            assert (other.metrics_url is None) == (status == 404)
