"""Logs in .npz files: arrays, clients, and damage."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs import open_log
from dynamarks_tf.request_logs.npz import NpzFile
from tests.helpers.logs import stored

INPUTS = np.arange(3000, dtype=np.float32).reshape(600, 5)
ANSWERS = np.random.default_rng(0).random((600, 3))


def entries(path: Path) -> list[Any]:
    return list(NpzFile(stored(path)).entries())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["inputs", "x", "queries"])
def test_arrays_come_back(path: Path, save: Any, name: str) -> None:
    save(path, **{name: INPUTS}, answers=ANSWERS)
    batches = list(open_log(path).batches(250))
    assert [len(batch) for batch in batches] == [250, 250, 100]
    np.testing.assert_array_equal(np.concatenate(batches), INPUTS, strict=True)


@pytest.mark.parametrize("dtype", ["U", "S"])
def test_clients_row_by_row(path: Path, dtype: str) -> None:
    clients = np.array(["alice", "bob", "alice", ""] * 150).astype(dtype)
    np.savez(path, inputs=INPUTS, client=clients, time=np.arange(600))
    log = open_log(path, client="alice")
    np.testing.assert_array_equal(np.concatenate(list(log.batches(64))), INPUTS[clients == clients[0]])
    assert log.clients() == {"alice": 300, "bob": 150, None: 150}
    assert [entry.time for entry in entries(path)][:3] == [0.0, 1.0, 2.0]


def test_one_client_and_time_for_all(path: Path) -> None:
    np.savez(path, inputs=INPUTS, client="alice", time=5)
    assert {(entry.client, entry.time) for entry in entries(path)} == {("alice", 5.0)}


def test_versions_row_by_row_or_for_all(path: Path) -> None:
    versions = np.repeat([1, 2], 300)
    np.savez(path, inputs=INPUTS, version=versions)
    np.testing.assert_array_equal(np.concatenate(list(open_log(path, version=2).batches(64))), INPUTS[versions == 2])
    with pytest.raises(LogError, match="a model not recorded, version 1: "):
        list(open_log(path).batches(64))
    np.savez(path, inputs=INPUTS, version=5)
    assert {entry.version for entry in entries(path)} == {5}


def test_rows_that_lie_scattered(path: Path) -> None:
    scattered = np.asfortranarray(INPUTS)
    np.savez(path, inputs=scattered)
    np.testing.assert_array_equal(np.concatenate(list(open_log(path).batches(100))), INPUTS)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"answers": ANSWERS}, r"holds the arrays answers; expected one called 'inputs'"),
        ({"inputs": INPUTS, "client": ["a"]}, r"'client' has shape \(1,\); expected 600 rows"),
        ({"inputs": INPUTS, "version": 1.5}, r"'version' holds float64; expected integers"),
        ({"inputs": np.array([None])}, r"the array 'inputs' holds Python objects"),
        ({"inputs": np.float32(1)}, "There is no request in"),
    ],
)
def test_arrays_that_do_not_go_together(path: Path, arrays: Any, message: str) -> None:
    np.savez(path, **arrays)
    with pytest.raises(LogError, match=message):
        list(open_log(path).batches(100))


def test_damage_is_reported_and_costs_no_row_before_it(path: Path) -> None:
    np.savez(path, inputs=INPUTS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(LogError, match="log.npz is damaged: "):
        list(open_log(path).batches(100))
    changed = bytearray(whole)
    changed[11_000] ^= 1
    path.write_bytes(changed)
    with pytest.warns(UserWarning, match="log.npz is damaged: Bad CRC-32.*Its first 256 rows are read"):
        assert sum(map(len, open_log(path).batches(100))) == 256


def test_an_array_shorter_than_its_header_states(path: Path) -> None:
    import zipfile

    np.save(path.with_suffix(".npy"), INPUTS)
    for cut, message in ((100, "inputs.npy is too short"), (3, "EOF|magic")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inputs.npy", path.with_suffix(".npy").read_bytes()[:-cut] if cut > 3 else b"\x93NU")
        with pytest.raises(LogError, match=f"log.npz is damaged: .*({message})"):
            list(open_log(path).batches(100))


def test_another_version_of_the_format(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inputs.npy", b"\x93NUMPY\x03\x00" + bytes(100))
    with pytest.raises(LogError, match=r"'inputs' is in version \(3, 0\) of the .npy format"):
        list(open_log(path).batches(100))


def test_memory_does_not_hold_the_arrays(path: Path) -> None:
    np.savez(path, inputs=np.zeros((100_000, 50), np.float32))  # 20 MB
    tracemalloc.start()
    assert sum(map(len, open_log(path).batches(256))) == 100_000
    assert tracemalloc.get_traced_memory()[1] < 3_000_000
    tracemalloc.stop()
