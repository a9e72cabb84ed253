"""The REST interface over a real socket, as clients of TensorFlow Serving rely on it."""

from __future__ import annotations

import gzip
import http.client
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import requests

from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.server_clients import over_rest

Post = Callable[..., requests.Response]


def error_of(response: requests.Response) -> str:
    body = response.json()
    assert list(body) == ["error"]
    return str(body["error"])


# Answers


def test_rows_give_the_result_of_tensorflow_alone(post: Post, images: np.ndarray, probabilities: np.ndarray) -> None:
    response = post("", instances=images.tolist())
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert list(response.json()) == ["predictions"]
    np.testing.assert_allclose(response.json()["predictions"], probabilities, rtol=1e-6)


def test_the_same_request_in_columns_and_with_names_gives_the_same_numbers(post: Post, images: np.ndarray) -> None:
    rows = post("", instances=images.tolist()).json()["predictions"]
    assert post("", instances=[{"image": row} for row in images.tolist()]).json() == {"predictions": rows}
    assert post("", inputs=images.tolist()).json() == {"outputs": rows}
    assert post("", inputs={"image": images.tolist(), "ignored": 1}).json() == {"outputs": rows}
    assert post("serving_default", inputs=images.tolist()).json() == {"outputs": rows}


def test_several_outputs_come_by_name(post: Post) -> None:
    rows = post("combine", instances=[{"a": 1.5, "b": 2}, {"b": 4, "a": -1}])
    assert rows.json() == {"predictions": [{"sum": 3.5, "product": 3.0}, {"sum": 3.0, "product": -4.0}]}
    columns = post("combine", inputs={"a": [1.5, -1], "b": [2, 4]})
    assert columns.json() == {"outputs": {"sum": [3.5, 3.0], "product": [3.0, -4.0]}}


def test_columns_may_hold_scalars(post: Post) -> None:
    assert post("with_scalar", inputs=[1, 2]).json() == {"outputs": {"y": [1.0, 2.0], "total": 3.0}}
    assert post("echo_float32", inputs=2.5).json() == {"outputs": 2.5}
    assert post("echo_float32", inputs=[]).json() == {"outputs": []}


def test_the_declared_shape_is_not_compared_with_the_request(post: Post) -> None:
    """`combine` declares vectors. TensorFlow Serving accepts matrices, and the graph can add them."""
    response = post("combine", inputs={"a": [[1, 2]], "b": [[3, 4]]})
    assert response.json()["outputs"]["sum"] == [[4.0, 6.0]]


def test_not_a_number_and_infinity_pass_both_ways(server: LocalServer) -> None:
    body = '{"signature_name": "echo_float32", "inputs": [NaN, Infinity, -Infinity, Inf, -Inf, 1e39]}'
    response = over_rest(server, body)
    assert '"outputs": [NaN, Infinity, -Infinity, Infinity, -Infinity, Infinity]' in response.text
    values = response.json()["outputs"]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, math.inf, -math.inf, math.inf]


def test_floats_are_written_short_if_that_is_exact(post: Post) -> None:
    response = post("echo_float32", inputs=[3, 9e6, 0.2, 1 / 3, 1e-5, 16777216])
    assert '"outputs": [3.0, 9e+06, 0.2, 0.333333343, 1e-05, 16777216.0]' in response.text
    assert '"outputs": [0.33333333333333331, 0.5]' in post("echo_float64", inputs=[1 / 3, 0.5]).text


def test_binary_data_is_base64_in_inputs_and_in_outputs_named_bytes(post: Post) -> None:
    response = post("text_twice", instances=['grüß "dich"', {"b64": "/wA="}, {"b64": "aGV5"}])
    first, _, third = json.loads(response.content.decode("utf-8", errors="surrogateescape"))["predictions"]
    assert first == {"text": 'grüß "dich"', "raw_bytes": {"b64": "Z3LDvMOfICJkaWNoIg=="}}
    assert third == {"text": "hey", "raw_bytes": {"b64": "aGV5"}}
    assert b'"\xff\\u0000"' in response.content  # not valid UTF-8, and passed through unchanged
    assert post("text", inputs={"b64": "aGV5"}).json() == {"outputs": "hey"}


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float32", [[0.5, -2.0], [1.0, 3.0]]),
        ("float64", [[1e300, 0.1], [1.0, 2.0]]),
        ("int8", [-128, 127]),
        ("int16", [-32768, 32767]),
        ("int32", [-(2**31), 2**31 - 1]),
        ("int64", [-(2**63), 2**63 - 1]),
        ("uint8", [0, 255]),
        ("uint32", [0, 2**32 - 1]),
        ("uint64", [0, 2**64 - 1]),
        ("bool", [[[True], [False]]]),
    ],
)
def test_every_dtype_of_rest_passes_unchanged(post: Post, dtype: str, values: Any) -> None:
    response = post(f"echo_{dtype}", inputs=values)
    assert response.json() == {"outputs": values}
    assert post(f"echo_{dtype}", instances=values).json() == {"predictions": values}


def test_gzip_bodies_are_read_and_damaged_ones_count_as_empty(server: LocalServer) -> None:
    body = json.dumps({"signature_name": "echo_float32", "inputs": [1.0]}).encode()
    headers = {"Content-Encoding": "gzip"}
    assert over_rest(server, gzip.compress(body), headers=headers).json() == {"outputs": [1.0]}
    for damaged in (gzip.compress(body)[:-9], b"\x1f\x8bnonsense"):
        response = over_rest(server, damaged, headers=headers)
        assert (response.status_code, error_of(response)) == (400, "JSON Parse error: The document is empty")


def test_a_large_request_and_answer_pass(post: Post) -> None:
    values = np.random.default_rng(1).random((40, 5000)).astype(np.float32)
    answer = np.array(post("echo_float32", inputs=values.tolist()).json()["outputs"], np.float32)
    np.testing.assert_array_equal(answer, values)


def test_eight_threads_get_each_their_own_answer(post: Post) -> None:
    def ask(number: int) -> bool:
        return bool(
            post("combine", inputs={"a": [number] * 50, "b": [1] * 50}).json()["outputs"]["sum"] == [number + 1] * 50
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(64)))


# Status and metadata


def test_status_of_the_model_and_of_its_version(server: LocalServer) -> None:
    expected = {
        "model_version_status": [
            {"version": "10", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    for suffix in ("", "/versions/10", "/versions/0010", "/labels/ignored", "/METADATA"):
        response = requests.get(server.rest_url + suffix, timeout=30)
        assert (response.status_code, response.json()) == (200, expected), suffix


def test_metadata_holds_names_dtypes_and_shapes(server: LocalServer) -> None:
    for suffix in ("/metadata", "/versions/10/metadata"):
        metadata = requests.get(server.rest_url + suffix, timeout=30).json()
        assert metadata["model_spec"] == {"name": "zoo", "signature_name": "", "version": "10"}
        signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert signature["method_name"] == "tensorflow/serving/predict"
        image = signature["inputs"]["image"]
        assert image["dtype"] == "DT_FLOAT"
        assert image["tensor_shape"] == {
            "dim": [{"size": "-1", "name": ""}, {"size": "4", "name": ""}],
            "unknown_rank": False,
        }
        assert list(signature["outputs"]) == ["probabilities"]


def test_the_version_in_the_path_is_used(server: LocalServer, images: np.ndarray) -> None:
    assert over_rest(server, {"instances": images.tolist()}, "/versions/10").status_code == 200


def test_the_path_is_case_insensitive_except_for_the_verb_and_percent_decoded(host_url: str) -> None:
    body = {"signature_name": "echo_float32", "inputs": 1}
    assert requests.post(host_url + "/V1/Models/zoo:predict", json=body, timeout=30).status_code == 200
    assert requests.post(host_url + "/v1/models/z%6F%6f:predict", json=body, timeout=30).status_code == 200
    assert requests.post(host_url + "/v1/models/ZOO:predict", json=body, timeout=30).status_code == 404


# Errors

GOOD = '{"instances": [[1, 2, 3, 4]]}'

PATHS = [
    ("POST", "/v1/models/other:predict", GOOD, 404, "Servable not found for request: Latest(other)"),
    ("POST", "/v1/models/zoo/versions/2:predict", GOOD, 404, "Servable not found for request: Specific(zoo, 2)"),
    ("POST", "/v1/models/zoo/labels/stable:predict", GOOD, 400, "Unrecognized servable version label: stable"),
    ("POST", "/v1/models/other/labels/stable:predict", GOOD, 400, "Unrecognized servable version label: stable"),
    ("POST", "/v1/models/other:predict", "{", 400, "JSON Parse error: "),
    ("POST", "/v1/models/a%2Fb+c:predict", GOOD, 404, "Servable not found for request: Latest(a/b+c)"),
    ("GET", "/v1/models/other", "", 404, "Could not find any versions of model other"),
    ("GET", "/v1/models/zoo/versions/7", "", 404, "Could not find version 7 of model zoo"),
    ("GET", "/v1/models/zoo?x=1", "", 404, "Could not find any versions of model zoo?x=1"),
    ("GET", "/v1/models/other/metadata", "", 404, "Servable not found for request: Latest(other)"),
    ("GET", "/v1/models/zoo/labels/stable/metadata", "", 400, "Unrecognized servable version label: stable"),
    ("GET", "/v1/models", "", 400, "Missing model name in request."),
    ("GET", "/v1/models/zoo/", "", 400, "Malformed request: GET /v1/models/zoo/"),
    ("GET", "/v1/models/zoo:predict", "", 400, "Malformed request: GET /v1/models/zoo:predict"),
    ("GET", "/v1/other", "", 400, "Malformed request: GET /v1/other"),
    ("POST", "/v1/models/zoo", GOOD, 400, "Malformed request: POST /v1/models/zoo"),
    ("POST", "/v1/models/zoo:PREDICT", GOOD, 400, "Malformed request: POST /v1/models/zoo:PREDICT"),
    ("POST", "/v1/models/zoo:predict?x=1", GOOD, 400, "Malformed request: POST /v1/models/zoo:predict?x=1"),
    ("POST", "/v1/models/zoo:predict/", GOOD, 400, "Malformed request: POST /v1/models/zoo:predict/"),
    ("PUT", "/v1/models/zoo:predict", GOOD, 400, "Malformed request: PUT /v1/models/zoo:predict"),
    ("DELETE", "/v1/models/zoo", "", 400, "Malformed request: DELETE /v1/models/zoo"),
    ("PATCH", "/v1/models/zoo", "", 400, "Malformed request: PATCH /v1/models/zoo"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "message"), PATHS)
def test_wrong_paths(host_url: str, method: str, path: str, body: str, status: int, message: str) -> None:
    response = requests.request(method, host_url + path, data=body, timeout=30)
    assert response.status_code == status
    assert error_of(response).startswith(message) or message in error_of(response)


@pytest.mark.parametrize("path", ["zoo:classify", "zoo/versions/10:regress", "other:classify"])
def test_classify_and_regress_are_refused_in_favor_of_predict(host_url: str, path: str) -> None:
    response = requests.post(f"{host_url}/v1/models/{path}", json={"examples": [{"x": 1.0}]}, timeout=30)
    assert response.status_code == 400
    assert error_of(response) == (
        f"Malformed request: POST /v1/models/{path}. Classify, Regress and MultiInference are not served here. "
        "Use Predict instead."
    )


BODIES = [
    ("empty", "", "JSON Parse error: The document is empty"),
    ("no JSON", '{"instances": [1,]}', "JSON Parse error: "),
    ("cut off", '{"instances": [1', "at offset: "),
    ("number of 5000 digits", '{"instances": [' + "1" * 5000 + "]}", "JSON Parse error: "),
    ("nested 100000 deep", '{"instances": ' + "[" * 100_000 + "]" * 100_000 + "}", "JSON Parse error: "),
    ("nested 40 deep", '{"instances": ' + "[" * 40 + "]" * 40 + "}", "nested 40 deep; at most 32"),
    ("nested 900 deep, ragged", '{"inputs": ' + "[" * 900 + "1" + "]" * 899 + ", 2]}", "JSON "),
    ("not an object", "[1, 2]", "JSON Value: [1, 2] Is not object"),
    ("signature name no string", '{"signature_name": 1}', "'signature_name' key must be a string value."),
    ("unknown signature", '{"signature_name": "x"}', 'Serving signature name: "x" not found in signature def'),
    ("no inputs", '{"signature_name": "no_inputs"}', "Failed to get input map for signature: no_inputs"),
    ("neither key", "{}", "Missing 'inputs' or 'instances' key"),
    ("both keys", '{"inputs": 1, "instances": [1]}', "expecting only one of 'inputs' or 'instances' keys"),
    ("instances no list", '{"instances": 1}', "Expecting 'instances' to be an list/array"),
    ("instances empty", '{"instances": []}', "No values in 'instances' array"),
    (
        "rows of values for two inputs",
        '{"signature_name": "combine", "instances": [1]}',
        "instances is a plain list, but",
    ),
    ("value for two inputs", '{"signature_name": "combine", "inputs": [1]}', "inputs is a plain value/list, but"),
    (
        "name missing in a row",
        '{"signature_name": "combine", "instances": [{"a": 1, "b": 1}, {"a": 1}]}',
        "Failed to process element: 1 of 'instances' list. JSON object: {\"a\": 1} keys must be equal to: a,b",
    ),
    (
        "unknown name in a row",
        '{"signature_name": "combine", "instances": [{"z": 1}]}',
        "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: "
        "JSON object: does not have named input: z",
    ),
    (
        "name missing in columns",
        '{"signature_name": "combine", "inputs": {"a": [1]}}',
        "Missing named input: b in 'inputs'",
    ),
    ("object then list", '{"instances": [{"image": [1]}, [1]]}', "Expecting object but got list at item 1"),
    ("list then object", '{"instances": [[1], {"image": [1]}]}', "Expecting value/list but got object at item 1"),
    (
        "text for a float",
        '{"instances": ["x"]}',
        "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
        'JSON Value: "x" Type: String is not of expected type: float',
    ),
    ("null", '{"instances": [[1, null]]}', "JSON Value: null Type: Null is not of expected type: float"),
    ("bool among floats", '{"inputs": [[1, true]]}', "JSON Value: true Type: True is not of expected type: float"),
    ("base64 for a float", '{"inputs": {"b64": "aGV5"}}', "Type: Object is not of expected type: float"),
    ("rows of other sizes", '{"instances": [[1, 2], [1]]}', "Expecting tensor size: 2 but got: 1"),
    ("rows of other shapes", '{"instances": [[1, 2], [[1, 2]]]}', "Expecting shape [2] but got: [1,2]"),
    ("ragged", '{"inputs": [[1, 2], [1]]}', "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    ("too deep", '{"inputs": [1, [2]]}', "Encountered list at unexpected level: 1 expected < 1"),
    ("not deep enough", '{"inputs": [[1], 2]}', "found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
    ("fraction for an int", '{"signature_name": "echo_int32", "inputs": 1.0}', "Number is not of expected type: int32"),
    ("bool for an int", '{"signature_name": "echo_int64", "inputs": true}', "True is not of expected type: int64"),
    ("int for a bool", '{"signature_name": "echo_bool", "inputs": [1]}', "Number is not of expected type: bool"),
    ("int32 too large", '{"signature_name": "echo_int32", "inputs": 2147483648}', "is not of expected type: int32"),
    ("int8 beyond int32", '{"signature_name": "echo_int8", "inputs": 2147483648}', "is not of expected type: int8"),
    ("uint32 negative", '{"signature_name": "echo_uint32", "inputs": -1}', "is not of expected type: uint32"),
    ("int64 too large", '{"signature_name": "echo_int64", "inputs": 9223372036854775808}', "expected type: int64"),
    ("NaN for an int", '{"signature_name": "echo_int32", "inputs": NaN}', "Number is not of expected type: int32"),
    ("number for a string", '{"signature_name": "text", "inputs": 1}', "Number is not of expected type: string"),
    (
        "object for a string",
        '{"signature_name": "text", "inputs": [{"a": 1}]}',
        "not formatted correctly for base64 data",
    ),
    ("bad base64", '{"signature_name": "text", "inputs": {"b64": "a!"}}', "Unable to base64 decode"),
    ("half a surrogate", '{"signature_name": "text", "inputs": "\\ud800"}', "surrogate pair in string is invalid"),
    (
        "half in rows",
        '{"signature_name": "echo_half", "instances": [1]}',
        "UNIMPLEMENTED: Conversion of JSON Value: 1 to type: half",
    ),
    ("wrong width for the graph", '{"instances": [[1, 2]]}', "Matrix size-incompatible: In[0]: [1,2], In[1]: [4,3]"),
    (
        "half in the answer",
        '{"signature_name": "half_out", "inputs": [1]}',
        "Failed to write JSON value for tensor type: half",
    ),
    (
        "scalar in rows",
        '{"signature_name": "with_scalar", "instances": [1, 2]}',
        "Tensor name: total has no shape information",
    ),
    ("rows of unequal number", '{"signature_name": "uneven", "instances": [1, 2]}', "has inconsistent batch size: "),
]


@pytest.mark.parametrize(("body", "message"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES])
def test_wrong_bodies(server: LocalServer, body: str, message: str) -> None:
    response = over_rest(server, body)
    assert response.status_code == 400
    assert message in error_of(response)


def test_errors_of_other_kinds_have_their_own_status(post: Post) -> None:
    unsupported = post("echo_half", inputs=[1])
    assert (unsupported.status_code, error_of(unsupported)) == (501, "Conversion of JSON Value: 1 to type: half")
    missing = post("missing_file", inputs="/no/such/file")
    assert missing.status_code == 404
    assert "/no/such/file" in error_of(missing)


def test_long_values_are_cut_in_errors(post: Post) -> None:
    assert len(error_of(post("", inputs="x" * 10_000))) < 400


def test_text_after_the_first_value_and_unknown_keys_are_ignored(server: LocalServer) -> None:
    body = '\ufeff {"signature_name": "echo_int32", "inputs": 7, "more": []} trailing'
    response = over_rest(server, body.encode())
    assert response.json() == {"outputs": 7}


def test_small_integers_wrap_around(post: Post) -> None:
    """TensorFlow Serving checks the range of int32 only."""
    assert post("echo_uint8", inputs=[256, -1]).json() == {"outputs": [0, 255]}


def test_a_version_beyond_int64_has_an_empty_answer(host_url: str) -> None:
    response = requests.get(f"{host_url}/v1/models/zoo/versions/{2**63}", timeout=30)
    assert (response.status_code, response.content) == (400, b"")


@pytest.mark.parametrize("path", ["/", "/v1", "/healthz", "/v2/models/zoo", "/monitoring/prometheus/metrics"])
def test_other_paths_are_html_404(host_url: str, path: str) -> None:
    response = requests.get(host_url + path, timeout=30)
    assert response.status_code == 404
    assert response.headers["Content-Type"].startswith("text/html")


def test_methods_of_browsers_and_proxies(host_url: str) -> None:
    url = host_url + "/v1/models/zoo"
    assert requests.head(url, timeout=30).status_code == 400
    assert requests.options(url, timeout=30).status_code == 400
    allowed = requests.options(url, headers={"Origin": "https://example.com"}, timeout=30)
    assert (allowed.status_code, allowed.content) == (200, b"")
    assert requests.request("TRACE", url, timeout=30).status_code == 501


def test_cors_headers_are_sent_if_switched_on(zoo: Any, host_url: str) -> None:
    with LocalServer(zoo, grpc_port=None, rest_port=0, rest_api_enable_cors_support=True) as open_to_all:
        for url, status in ((open_to_all.rest_url, 200), (open_to_all.rest_url + "x", 404)):
            for response in (requests.get(url, timeout=30), requests.options(url, timeout=30)):
                assert response.headers["Access-Control-Allow-Origin"] == "*"
                assert response.headers["Access-Control-Allow-Methods"] == "POST, GET"
                assert response.headers["Access-Control-Allow-Headers"] == "Content-Type"
            assert requests.get(url, timeout=30).status_code == status
    assert "Access-Control-Allow-Origin" not in requests.get(host_url + "/v1/models/zoo", timeout=30).headers


def test_a_slow_request_ends_at_the_servers_timeout(zoo: Any) -> None:
    with LocalServer(zoo, grpc_port=None, rest_port=0, rest_timeout_s=0.2) as impatient:
        body = {"signature_name": "count", "inputs": 10**9}
        response = over_rest(impatient, body)
        assert response.status_code == 504
        assert "imed out" in error_of(response)


def test_one_connection_answers_many_requests(server: LocalServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port or 0, timeout=30)
    for number in range(5):
        connection.request(
            "POST", "/v1/models/zoo:predict", json.dumps({"signature_name": "echo_int32", "inputs": number})
        )
        opened = connection.sock
        assert json.loads(connection.getresponse().read()) == {"outputs": number}
        assert connection.sock is opened
    connection.close()
