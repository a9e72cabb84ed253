"""A seeded excerpt of the study that mutates the input of every reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.studies import fuzz_readers

SLOW = "parquet"  # starts a process for each input
MOST_MB = 64


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, fuzz_readers.Reader]]:
    folder = tmp_path_factory.mktemp("fuzz")
    with fuzz_readers.answer_readers() as answers:
        yield {**fuzz_readers.file_readers(folder), **fuzz_readers.log_readers(folder), **answers}


def test_damaged_input_is_read_or_refused_in_words(readers: dict[str, fuzz_readers.Reader]) -> None:
    for name, reader in readers.items():
        found = fuzz_readers.tried(name, reader, 1 if name.startswith(SLOW) else 30, seed=1)
        assert found["read"] + found["refused"] == found["inputs"], found
        assert found["peak MB"] < MOST_MB, found


def test_the_study_counts_what_is_neither(tmp_path: Path) -> None:
    def read(data: bytes) -> None:
        if data != b"valid":
            raise KeyError(data)

    found = fuzz_readers.tried("broken", fuzz_readers.Reader([b"valid"], read, (fuzz_readers.mutated,)), 50, seed=0)
    assert found["raw exceptions"] == 50 - found["read"] > 40
    assert "KeyError at test_fuzz_readers.py" in found["problems"][0]
