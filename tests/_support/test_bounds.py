"""Small files and messages that would fill the memory or the time of whoever reads them: each is refused in words."""

from __future__ import annotations

import contextlib
import io
import json
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow.core.framework import tensor_pb2

from dynamarks_tf._support import archives, tensor_proto
from dynamarks_tf._support.json_bounds import check_json
from dynamarks_tf.case.transcript import TranscriptBatch
from dynamarks_tf.datasets import load_npy, load_npz
from dynamarks_tf.datasets.table import load_table
from dynamarks_tf.errors import DatasetError, LogError, SuspectError, TranscriptError
from dynamarks_tf.request_logs import open_log
from dynamarks_tf.serving.protocol import json_tensor
from dynamarks_tf.serving.protocol.status import StatusError
from dynamarks_tf.suspects.answer_file import AnswerFileSuspect
from dynamarks_tf.suspects.answer_forms import as_array
from dynamarks_tf.suspects.queries import ArrayQueries, load_queries

MOST_BYTES, MOST_SECONDS = 2**26, 5.0
QUERIES = ArrayQueries(np.zeros((3, 2), np.float32))


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """A memory limit and a deadline."""
    tracemalloc.start()
    began = time.monotonic()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
        assert time.monotonic() - began < MOST_SECONDS
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """1 MB that declares, and unpacks to, 300 MB."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("answers.npy", "w") as member,
    ):
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (3 * 10**8,)})
        for _ in range(300):
            member.write(bytes(10**6))
    return buffer.getvalue()


def header(descr: str, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def test_a_deflated_archive_that_unpacks_to_much(tmp_path: Path, bomb: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(bomb)
    with (
        bounded(),
        pytest.raises(SuspectError, match=r"unpacks to 300,000,128 bytes; at most 268,435,456"),
    ):
        AnswerFileSuspect(path, QUERIES)
    with bounded(), pytest.raises(DatasetError, match="unpacks to 300,000,128 bytes"):
        load_queries(path)
    with bounded(), pytest.raises(TranscriptError, match="is compressed"):
        TranscriptBatch.from_bytes(bomb)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (header("<f8", (10**10,)), "declares 80,000,000,000 bytes"),
        (header("|O", (3,)), "Python objects"),
        (header("<U100000000", (3,)), "declares 1,200,000,000 bytes"),
        (header("<f8", (10**18, 0)), "whose rows hold nothing"),
        (header("<f8", (-1, 3)), "impossible shape"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", "a header of 2,147,483,647 bytes"),
        (header("<f8", (3,)).replace(b"(3,)", b"((((") + bytes(24), ""),
    ],
    ids=["size", "objects", "wide text", "empty rows", "negative", "header", "brackets"],
)
def test_the_header_of_an_array_is_checked_before_its_values(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("inputs.npy", data)
    with bounded(), pytest.raises(archives.ArchiveError, match=reason):
        archives.Archive(tmp_path / "x.npz").array("inputs.npy", archives.NUMBERS + archives.TEXTS)
    with bounded(), pytest.raises(DatasetError, match="Cannot read queries from"):
        load_queries(tmp_path / "x.npy")
    with bounded(), pytest.raises(DatasetError, match="cannot be read"):
        load_npy(tmp_path / "x.npy", tmp_path / "x.npy")
    with bounded(), pytest.raises(LogError, match="is damaged"):
        list(open_log(tmp_path / "x.npz").batches(9))


def test_an_archive_of_many_members_is_not_listed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for number in range(10_000):
            archive.writestr(f"{number:0100}", b"")
    with bounded(), pytest.raises(DatasetError, match="its directory of members takes more than 1,048,576 bytes"):
        load_npz(tmp_path / "x.npz")


def tensor(shape: tuple[int, ...], **values: Any) -> tensor_pb2.TensorProto:
    proto = tensor_pb2.TensorProto(dtype=7 if "string_val" in values else 1, **values)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (tensor((10**8, 10), float_val=[1.0]), r"declares the shape \(100000000, 10\), and at most 1,000 values"),
        (tensor((2**62, 2**62), float_val=[1.0]), "at most 1,000 values"),
        (tensor((10**9, 0)), "at most 1,000 values"),
        (tensor((2,), tensor_content=bytes(12)), "holds 12 bytes"),
        (tensor((1,) * 40, float_val=[1.0]), "40 axes"),
        (tensor((-1,), float_val=[1.0]), "fully known"),
    ],
)
def test_a_tensor_is_not_decoded_before_its_shape_is_checked(proto: Any, reason: str) -> None:
    with bounded(), pytest.raises(ValueError, match=reason):
        tensor_proto.read(proto, 1000)


def test_a_logged_request_of_few_bytes_gives_each_distinct_row_once(tmp_path: Path, make_log: Any) -> None:
    """One request that fills millions of equal rows poisons no log: its distinct rows are there, and so are others."""
    path = make_log(tensor((12 * 10**6, 2), float_val=[1, 2, 3]), tensor((2, 2), float_val=[5, 6, 7, 8]))
    np.testing.assert_array_equal(next(open_log(path).batches(99)), [[1, 2], [3, 3], [3, 3], [5, 6], [7, 8]])
    path = make_log(tensor((2**40,), string_val=[b"a", b"b"]))
    assert next(open_log(path).batches(99)).tolist() == [b"a", b"b"]
    path = make_log(tensor((1, 10**9), float_val=[1.0]), tensor((10**9, 0)), tensor((1, 2), float_val=[1, 2]))
    with (
        bounded(),
        pytest.warns(UserWarning, match=r"2 logged requests were left out. .*offset 0: its input 'x'"),
    ):
        assert [len(batch) for batch in open_log(path).batches(99)] == [1]


@pytest.fixture
def make_log(tmp_path: Path) -> Callable[..., Path]:
    """Writes a log with a request for each tensor."""
    from tensorflow_serving.apis import predict_pb2

    from dynamarks_tf.request_logs.prediction_log import encode
    from tests.helpers.logs import record

    def make(*tensors: Any) -> Path:
        path = tmp_path / "log"
        requests = []
        for each in tensors:
            requests.append(predict_pb2.PredictRequest())
            requests[-1].inputs["x"].CopyFrom(each)
        response = predict_pb2.PredictResponse()
        path.write_bytes(b"".join(record(encode(request, response)) for request in requests))
        return path

    return make


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" + "[]," * 10**6 + "[]]", "more than 100,000 values"),
        ("[" * 10**6, "more than 100,000 values"),
        ("[" * 1000, "nested more than 500 levels deep"),
        ('["' + '\\"' * 10**5 + "[," * 10**4, None),  # a string without an end takes no quadratic time
        ('{"inputs": "Inf' + '\\"' * 10**5 + "\\", None),
    ],
    ids=["lists", "wide and deep", "deep", "open string", "open end"],
)
def test_json_is_measured_before_it_is_parsed(text: str, reason: str | None) -> None:
    if reason is None:
        with bounded():
            check_json(text, 100_000)
        with bounded(), pytest.raises(StatusError):
            json_tensor.parse(text.encode())
    else:
        with bounded(), pytest.raises(ValueError, match=reason):
            check_json(text, 100_000)


def test_the_name_of_a_class_cannot_fill_an_array() -> None:
    with (
        bounded(),
        pytest.raises(SuspectError, match="a text of 10,000,000 characters; the name of a class"),
    ):
        as_array([["cat"], ["x" * 10**7]] * 50, 100)


def test_a_query_that_is_answered_twice_at_the_end_of_a_long_file(tmp_path: Path) -> None:
    """469 kB took quadratic time."""
    count = 20_000
    numbers = [*range(count - 1), count - 2]
    (tmp_path / "a.csv").write_text("query,answers\n" + "".join(f"{number},1\n" for number in numbers))
    began = time.monotonic()
    with pytest.raises(SuspectError, match=f"answers query {count - 2} more than once"):
        AnswerFileSuspect(tmp_path / "a.csv", ArrayQueries(np.arange(count, dtype=np.float32).reshape(-1, 1)))
    assert time.monotonic() - began < MOST_SECONDS


def test_a_parquet_file_that_declares_much_of_few_bytes(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    zeros = np.zeros(17 * 10**6, np.int8)
    parquet.write_table(arrow.table({"a": zeros, "b": zeros}), path)
    assert path.stat().st_size < 200_000
    with bounded(), pytest.raises(SuspectError, match="it declares 34,000,000 values"):
        AnswerFileSuspect(path, QUERIES)
    with (
        bounded(),
        pytest.raises(DatasetError, match="as a Parquet file: it declares 34,000,000 values"),
    ):
        load_table(path)


def test_a_line_that_is_nested_deep_or_holds_a_long_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for value in ("[" * 1000 + "]" * 1000, "9" * 5000, "9" * 4000, json.dumps({"a": None})):
        path.write_text(f'{{"a": {value}, "b": 1}}\n' * 3)
        with bounded(), pytest.raises(SuspectError, match="cannot be read as a file of answers"):
            AnswerFileSuspect(path, QUERIES)
