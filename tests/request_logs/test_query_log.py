"""A log as a source of queries: files, selection, batches, omissions and errors."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamarks_tf.errors import ArgumentError, LogError
from dynamarks_tf.request_logs import open_log
from dynamarks_tf.request_logs.prediction_log import encode
from dynamarks_tf.suspects.queries import QuerySource, as_queries
from tests.helpers.logs import record

WriteLog = Callable[..., Path]


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


# Batches


@pytest.mark.parametrize("batch_size", [1, 4, 5, 7, 100])
@pytest.mark.parametrize("rows", [1, 5])
def test_batches_have_the_size_asked_for(write_log: WriteLog, expected: Any, rows: int, batch_size: int) -> None:
    log = open_log(write_log(12, rows=rows))
    for _ in range(2):  # the second pass yields the same
        batches = list(log.batches(batch_size))
        assert all(len(batch) == batch_size for batch in batches[:-1])
        np.testing.assert_array_equal(np.concatenate(batches), expected(range(12), rows))


def test_a_log_is_a_query_source(write_log: WriteLog) -> None:
    log = open_log(write_log(2))
    assert isinstance(log, QuerySource)
    assert as_queries(log) is log


def test_a_batch_has_rows(write_log: WriteLog) -> None:
    with pytest.raises(ArgumentError, match="`batch_size` must be at least 1. Received: 0"):
        next(open_log(write_log(2)).batches(0))


# Files


def test_files_of_all_kinds_without_times_are_read_in_the_order_given(
    write_log: WriteLog, expected: Any, tmp_path: Path
) -> None:
    inputs = expected(range(2))
    np.savez(tmp_path / "b.npz", inputs=inputs + 1)
    (tmp_path / "c.jsonl").write_text('\n  {"inputs": %s}\n' % (inputs + 2).tolist())  # noqa: UP031
    paths = [tmp_path / "c.jsonl", tmp_path / "b.npz", str(write_log(2, name="a", start=0, step=0))]
    log = open_log(paths)
    assert [Path(path).name for path in log.paths] == ["c.jsonl", "b.npz", "a"]
    np.testing.assert_array_equal(next(log.batches(9)), np.concatenate([inputs + 2, inputs + 1, inputs]))


def test_the_content_decides_not_the_name(write_log: WriteLog, tmp_path: Path) -> None:
    path = write_log(1).rename(tmp_path / "misleading.npz")
    assert len(next(open_log(path).batches(9))) == 1


def test_a_record_whose_length_begins_like_json(tmp_path: Path, make_messages: Any) -> None:
    request, response = make_messages()
    request.model_spec.signature_name = "s" * next(
        n for n in range(256) if _size_with(request, response, n) % 256 == ord("{")
    )
    path = tmp_path / "log"
    path.write_bytes(record(encode(request, response)))
    assert path.read_bytes().startswith(b"{")
    assert len(next(open_log(path).batches(9))) == 1


def _size_with(request: Any, response: Any, length: int) -> int:
    copy = type(request)()
    copy.CopyFrom(request)
    copy.model_spec.signature_name = "s" * length
    return len(encode(copy, response))


def test_a_growing_log_keeps_the_length_it_had(write_log: WriteLog) -> None:
    path = write_log(3)
    log = open_log(path)
    with path.open("ab") as file:
        file.write(path.read_bytes())
    assert len(next(log.batches(100))) == 3
    assert len(next(open_log(path).batches(100))) == 6


def test_folders_of_a_server(write_log: WriteLog, tmp_path: Path, expected: Any) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    with pytest.raises(
        LogError, match="logs holds no request log: neither it nor .* has files called requests-NUMBER-TIME.tfrecord"
    ):
        open_log(folder)
    for number, count in ((100000000, 1), (99999999, 2)):
        write_log(count, step=0).rename(folder / f"requests-{number}-20260102T030405Z.tfrecord")
    (folder / "notes.txt").write_text("not a log")
    np.testing.assert_array_equal(next(open_log(folder).batches(9)), expected([0, 1, 0]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"some text", "log.bin is no request log; accepted: TFRecord files of PredictionLog"),
        (b"", "log.bin is no request log"),
        (gzip.compress(b"x", mtime=0), "log.bin is no request log"),
        (None, "Cannot read .*log.bin: No such file"),
    ],
)
def test_files_that_are_no_log(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "log.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LogError, match=message):
        open_log(path)


def test_a_file_that_vanishes(write_log: WriteLog) -> None:
    log = open_log(write_log(1))
    Path(log.paths[0]).unlink()
    with pytest.raises(LogError, match="Cannot read .*log.tfrecord: No such file"):
        list(log.batches(9))


def test_arguments() -> None:
    with pytest.raises(ArgumentError, match="`paths` is empty. Give at least one request log"):
        open_log([])
    for dtype in ("nonsense", "U5"):
        with pytest.raises(ArgumentError, match=f"`dtype` must be a type of numbers.*'{dtype}'"):
            open_log("log", dtype=dtype)


# Selection


def test_requests_of_one_client_or_several(write_log: WriteLog, expected: Any) -> None:
    path = write_log(9, clients=["alice", "bob", None])
    np.testing.assert_array_equal(next(open_log(path, client="bob").batches(9)), expected([1, 4, 7]))
    assert len(next(open_log(path, client=["alice", "bob"]).batches(9))) == 6
    assert len(next(open_log(path).batches(9))) == 9
    assert open_log(path, client="bob").clients() == {"alice": 3, "bob": 3, None: 3}


def test_requests_to_one_model(write_log: WriteLog) -> None:
    path = write_log(2)
    assert len(next(open_log(path, model="clf").batches(9))) == 2
    with pytest.raises(
        LogError, match="is from any client to the model 'other'. There are requests from the clients 'alice'"
    ):
        next(open_log(path, model="other").batches(9))


def test_requests_that_one_version_answered(write_log: WriteLog, expected: Any) -> None:
    old, new = write_log(3, name="old", version=1), write_log(2, name="new", version=2, start=2000)
    unknown = write_log(4, name="unknown", version=None, start=3000)
    np.testing.assert_array_equal(next(open_log([old, new], version=2).batches(9)), expected([0, 1]))
    assert [len(batch) for batch in open_log([old, new], version=1).batches(9)] == [3]
    assert [len(batch) for batch in open_log([old, new], version=[1, 2]).batches(9)] == [5]
    log = open_log([old, new, unknown], version=np.int64(1))
    with pytest.warns(UserWarning, match="4 logged requests were left out: the version that answered was not recorded"):
        assert [len(batch) for batch in log.batches(9)] == [3]
    assert log.versions() == {("clf", 1): 3, ("clf", 2): 2, ("clf", None): 4}
    assert [len(batch) for batch in open_log([new, unknown]).batches(9)] == [6]
    with pytest.raises(
        LogError, match="is from any client, answered by version 3. Of the others, these answered: 'clf', version 1: 3"
    ):
        next(open_log([old, new], version=3).batches(9))
    for version in ("2", True, 2.0, [], ["2"]):
        with pytest.raises(ArgumentError, match="`version` must be the number of a version"):
            open_log(old, version=version)


def test_a_version_is_chosen_for_one_client(write_log: WriteLog) -> None:
    """Requests of others without a version are not counted as left out."""
    old = write_log(4, name="old", version=1, clients=["alice", "bob"])
    unknown = write_log(4, name="unknown", version=None, clients=["bob"])
    log = open_log([old, unknown], client="alice", version=1)
    assert [len(batch) for batch in log.batches(9)] == [2]
    assert log.versions() == {("clf", 1): 2}


def test_requests_that_several_versions_answered_are_not_mixed(write_log: WriteLog) -> None:
    paths = [write_log(3, name="old", version=1), write_log(2, name="new", version=2, start=2000)]
    log = open_log(paths)
    message = (
        r"Several versions answered the requests in .*old, .*new: 'clf', version 1: 3 requests, 'clf', version 2: 2 "
        r"requests. A mark's key belongs to one version of one model. Choose with version= "
        r"\(.* --log-version N`; all "
    )
    with pytest.raises(LogError, match=message):
        list(log.batches(9))


def test_requests_that_several_models_answered_are_not_mixed(write_log: WriteLog, tmp_path: Path) -> None:
    paths = [write_log(2, name="a", model="a"), write_log(3, name="b", model="b", start=2000)]
    with pytest.raises(LogError, match=r"Choose with model= \(`dynamarks verify --log-model NAME`\)\.$"):
        list(open_log(paths).batches(9))
    assert [len(batch) for batch in open_log(paths, model="b").batches(9)] == [3]
    with pytest.raises(LogError, match=r"Choose with model= \([^)]*\)\.$"):
        list(open_log(paths, version=7).batches(9))
    nameless = tmp_path / "c.jsonl"
    nameless.write_text('{"inputs": [[1, 2, 3, 4]], "version": 7}\n')
    assert [len(batch) for batch in open_log([paths[0], nameless]).batches(9)] == [3]


def test_nothing_found(write_log: WriteLog, tmp_path: Path) -> None:
    path = write_log(9, clients=["a", "b", "c", None, "d", "e", "f"])
    with pytest.raises(
        LogError,
        match=r"is from 'mallory'. There are requests from the clients 'a', 'b', 'c', \(not recorded\), 'd' and 2 more",
    ):
        next(open_log(path, client="mallory").batches(9))
    (tmp_path / "empty.tfrecord").touch()
    with pytest.raises(LogError, match="There is no request in .*empty.tfrecord"):
        next(open_log(tmp_path / "empty.tfrecord").batches(9))


# Clients cannot spoil the log


def test_inputs_of_another_shape_or_type_are_left_out_and_counted(
    tmp_path: Path, make_messages: Any, expected: Any
) -> None:
    odd = [np.zeros((1, 5), np.float32), np.zeros((1, 4), np.float64), np.zeros((2, 2, 4), np.float32)]
    messages = [make_messages(0), *(make_messages(inputs={"image": array}) for array in odd), make_messages(1)]
    path = tmp_path / "log"
    path.write_bytes(b"".join(record(encode(*each)) for each in messages))
    log = open_log(path)
    with pytest.warns(UserWarning, match=r"3 logged requests were left out. The first: .*offset \d+: its inputs are "):
        inputs = next(log.batches(9))
    np.testing.assert_array_equal(inputs, expected([0, 1]))
    assert len(next(log.batches(9))) == 2  # warned about once
    assert len(log.problems) == 1
    assert "float32 of shape (5,), the first ones float32 (4,)" in log.problems[0]


def test_the_shape_can_be_given_so_that_the_first_request_does_not_decide(tmp_path: Path, make_messages: Any) -> None:
    path = tmp_path / "log"
    odd = make_messages(inputs={"image": np.zeros((1, 5), np.float32)})
    path.write_bytes(b"".join(record(encode(*each)) for each in (odd, make_messages(0), make_messages(1))))
    for shape in ((4,), [4]):
        with pytest.warns(UserWarning, match=r"1 logged .*inputs have shape \(5,\), not \(4,\)"):
            assert len(next(open_log(path, input_shape=shape).batches(9))) == 2
    with pytest.raises(LogError, match=r"have shape \(5,\), not \(None, 4\)"):
        next(open_log(path, input_shape=(None, 4)).batches(9))
    with pytest.warns(UserWarning, match="2 logged"):
        assert next(open_log(path, input_shape=(None,)).batches(9)).shape == (1, 5)


# Damage


def test_a_truncated_record_is_reported_once_and_the_next_file_goes_on(write_log: WriteLog, expected: Any) -> None:
    cut = write_log(3, name="cut.tfrecord")
    cut.write_bytes(cut.read_bytes()[:-1])
    log = open_log([cut, write_log(1, start=2000)])
    with pytest.warns(UserWarning, match=r"cut.tfrecord: the last record, at offset \d+, is cut off after") as caught:
        passes = [next(log.batches(9)) for _ in range(2)]
    assert len(caught) == len(log.problems) == 1
    for inputs in passes:
        np.testing.assert_array_equal(inputs, expected([0, 1, 0]))


def test_a_log_cut_at_every_byte_of_its_last_record(write_log: WriteLog, expected: Any) -> None:
    path = write_log(2)
    whole = path.read_bytes()
    begin = len(whole) // 2
    for size in range(begin + 1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.warns(UserWarning, match=f"at offset {begin}, is cut off after {size - begin} bytes"):
            np.testing.assert_array_equal(next(open_log(path).batches(9)), expected([0]))


def test_a_corrupt_record_costs_no_other(write_log: WriteLog, expected: Any) -> None:
    path = write_log(3)
    changed = bytearray(path.read_bytes())
    begin = len(changed) // 3
    changed[begin + 50] ^= 1
    path.write_bytes(changed)
    with pytest.warns(UserWarning, match=f"1 logged .*log.tfrecord, offset {begin}: it is corrupt"):
        np.testing.assert_array_equal(next(open_log(path).batches(9)), expected([0, 2]))
    changed[begin + 50] ^= 1
    changed[3] ^= 1  # the very first header
    path.write_bytes(changed)
    with pytest.warns(UserWarning, match=rf"1 logged.*offset 0: it is corrupt.*length is wrong, and {begin} bytes are"):
        np.testing.assert_array_equal(next(open_log(path).batches(9)), expected([1, 2]))


def test_memory_does_not_grow_with_the_log(tmp_path: Path, make_messages: Any) -> None:
    path = tmp_path / "log.tfrecord"
    path.write_bytes(1000 * record(encode(*make_messages(), client="alice")))
    peaks = []
    for copies in (1, 20):
        paths = [path, *(tmp_path / f"copy-{number}" for number in range(1, copies))]
        for copy in paths[1:]:
            os.link(path, copy)
        log = open_log(paths, client="alice")
        tracemalloc.start()
        assert sum(map(len, log.batches(256))) == 1000 * copies
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 10_000_000
