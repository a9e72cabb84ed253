"""Files of answers: every format, and that no answer is ever taken for that to another query."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamarks_tf._support.digests import query_digest
from dynamarks_tf.errors import ArgumentError, SuspectError
from dynamarks_tf.suspects import as_suspect
from dynamarks_tf.suspects.answer_file import AnswerFileSuspect
from dynamarks_tf.suspects.queries import ArrayQueries

Array = np.ndarray[Any, Any]
Columns = dict[str, Any]

QUERIES = np.random.default_rng(0).random((6, 2, 2), np.float32)
PROBABILITIES = np.random.default_rng(1).dirichlet(np.ones(3), 6)
NAMES = ["bag", "shirt", "shoe"]
LABELS = ["shirt", "bag", "shirt", "shoe", "bag", "bag"]


def digests(queries: Array) -> list[str]:
    return [query_digest(queries[row : row + 1]) for row in range(len(queries))]


def write_npz(path: Path, columns: Columns) -> None:
    classes = [name for name in columns if name not in ("answers", "query", "query_sha256")]
    if classes:
        answers = np.stack([columns.pop(name) for name in classes], axis=1)
        columns = {**columns, "answers": answers, "classes": classes}
    np.savez(path, **columns)


def write_csv(path: Path, columns: Columns) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])


def write_parquet(path: Path, columns: Columns) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({name: list(column) for name, column in columns.items()}), path)


def write_json_lines(path: Path, columns: Columns) -> None:
    rows = zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
    path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))


WRITERS: dict[str, Callable[[Path, Columns], None]] = {
    "npz": write_npz,
    "csv": write_csv,
    "parquet": write_parquet,
    "jsonl": write_json_lines,
}


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Columns], Path]:
    def write(columns: Columns) -> Path:
        path = tmp_path / f"answers.{request.param}"
        WRITERS[request.param](path, dict(columns))
        return path

    return write


def by_class(order: list[int]) -> Columns:
    return {name: PROBABILITIES[order, column] for column, name in enumerate(NAMES)}


IN_ORDER = list(range(6))
SHUFFLED = [3, 0, 5, 1, 4, 2]


def opened(path: Path, queries: Array | None = QUERIES) -> AnswerFileSuspect:
    suspect = as_suspect(path, queries=None if queries is None else ArrayQueries(queries))
    assert isinstance(suspect, AnswerFileSuspect)
    return suspect


@pytest.mark.parametrize("way", ["in order", "numbered", "digests"])
def test_probabilities_by_class_belong_to_their_queries(write: Callable[[Columns], Path], way: str) -> None:
    order = IN_ORDER if way == "in order" else SHUFFLED
    keys = {"in order": {}, "numbered": {"query": order}, "digests": {"query_sha256": digests(QUERIES[order])}}[way]
    suspect = opened(write({**keys, **by_class(order)}), None if way == "digests" else QUERIES)
    assert suspect.classes == tuple(NAMES)
    np.testing.assert_allclose(suspect.predict(QUERIES[4:]), PROBABILITIES[4:])
    np.testing.assert_allclose(suspect.predict(QUERIES[[2, 1, 2]]), PROBABILITIES[[2, 1, 2]])


def test_labels_belong_to_their_queries(write: Callable[[Columns], Path]) -> None:
    for labels in (LABELS, [NAMES.index(label) for label in LABELS]):
        suspect = opened(write({"query": SHUFFLED, "answers": [labels[row] for row in SHUFFLED]}))
        assert suspect.classes is None
        np.testing.assert_array_equal(suspect.predict(QUERIES[1:4]), labels[1:4])


@pytest.mark.parametrize("suffix", ["npz", "parquet", "jsonl"])
def test_probabilities_as_lists(tmp_path: Path, suffix: str) -> None:
    WRITERS[suffix](tmp_path / f"a.{suffix}", {"answers": PROBABILITIES})
    suspect = opened(tmp_path / f"a.{suffix}")
    assert suspect.classes is None
    np.testing.assert_array_equal(suspect.predict(QUERIES), PROBABILITIES)


def test_column_names_that_are_numbers_are_class_indices(write: Callable[[Columns], Path]) -> None:
    suspect = opened(write({str(2 - column): PROBABILITIES[:, column] for column in range(3)}))
    assert suspect.classes == (2, 1, 0)


@pytest.mark.parametrize("count", [5, 7])
def test_another_number_of_answers_than_queries_is_refused(write: Callable[[Columns], Path], count: int) -> None:
    path = write({"answers": (LABELS * 2)[:count]})
    with pytest.raises(SuspectError, match=f"holds {count} answers, and there are 6 queries. Give exactly the queries"):
        opened(path)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        (
            [0, 1, 2, 3, 4],
            r"does not answer all of the 6 queries: 1 are missing, the first is number 5, counted from 0",
        ),
        ([0, 1, 2, 3, 4, 4], "answers query 4 more than once. Keep one"),
        ([0, 1, 2, 3, 4, 6], "answers query 6, and the 6 queries have the numbers 0 to 5"),
        ([0, 1, 2, 3, 4, -1], "answers query -1, and the 6 queries"),
        (["0", "1", "2", "3", "4", "five"], "'query' must hold whole numbers: .*five"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.5], "'query' must hold whole numbers"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(write: Callable[[Columns], Path], numbers: list[Any], text: str) -> None:
    path = write({"query": numbers, "answers": LABELS[: len(numbers)]})
    with pytest.raises(SuspectError, match=text):
        opened(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda found: [*found[:4], "0" * 64, "1" * 64],
            "does not answer all of the 6 queries: 2 are missing, the first is numb",
        ),
        (lambda found: [*found[:5], found[0]], "answers the same input differently in rows 0 and 5"),
        (lambda found: [*found[:5], "abc"], "'abc' is not a SHA-256 digest"),
    ],
)
def test_digests_that_do_not_fit_are_refused(
    write: Callable[[Columns], Path], change: Callable[[list[str]], list[str]], text: str
) -> None:
    path = write({"query_sha256": change(digests(QUERIES)), **by_class(IN_ORDER)})
    with pytest.raises(SuspectError, match=text):
        opened(path)


def test_queries_of_another_type_are_not_those_that_were_answered(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", {"query_sha256": digests(QUERIES), "answers": LABELS})
    with pytest.raises(SuspectError, match="6 are missing, the first is number 0.* of the same type"):
        opened(tmp_path / "a.csv", QUERIES.astype(float))


def test_inputs_that_were_not_answered_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", {"answers": LABELS})
    batch = np.concatenate([QUERIES[:2], QUERIES[:1] + 1])
    with pytest.raises(
        SuspectError, match=r"batch of shape \(3, 2, 2\) .*: row 2 of it is not among the inputs that were answered"
    ):
        opened(tmp_path / "a.csv").predict(batch)


def test_the_same_input_twice_has_one_answer(tmp_path: Path) -> None:
    queries = QUERIES[[0, 1, 0]]
    write_csv(tmp_path / "same.csv", {"answers": ["bag", "shoe", "bag"]})
    np.testing.assert_array_equal(opened(tmp_path / "same.csv", queries).predict(queries), ["bag", "shoe", "bag"])
    write_csv(tmp_path / "other.csv", {"answers": ["bag", "shoe", "shirt"]})
    with pytest.raises(SuspectError, match="answers the same input differently in rows 0 and 2"):
        opened(tmp_path / "other.csv", queries)


def test_answers_without_digests_need_the_queries(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", {"answers": LABELS})
    with pytest.raises(
        ArgumentError, match="in the order or by the number of the queries. Give these queries: queries="
    ):
        opened(tmp_path / "a.csv", None)


@given(order=st.permutations(range(6)), kept=st.integers(1, 6), batch=st.lists(st.integers(0, 5), min_size=1))
def test_answers_belong_to_their_queries_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], kept: int, batch: list[int]
) -> None:
    path = tmp_path_factory.mktemp("answers") / "a.jsonl"
    write_json_lines(path, {"query": order[:kept], **by_class(order[:kept])})
    if kept < 6:
        with pytest.raises(SuspectError, match=f"{6 - kept} are missing"):
            opened(path)
    else:
        np.testing.assert_array_equal(opened(path).predict(QUERIES[batch]), PROBABILITIES[batch])


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.npz", b"damaged", "cannot be read as a file of answers: "),
        ("a.parquet", b"damaged", "cannot be read as a file of answers: "),
        ("a.jsonl", b"{", "cannot be read as a file of answers: "),
        (
            "a.jsonl",
            b'{"answers": 1}\n{"answer": 2}\n',
            "object 2 does not have the same entries as the first: answers",
        ),
        ("a.jsonl", b"[1]\n", "line 1 is no JSON object"),
        ("a.jsonl", b'{"answers": [1, 2]}\n{"answers": [1]}\n', "cannot be read as a file of answers: .*inhomogeneous"),
        ("a.jsonl", b"", "there is no column 'answers', and none for a class"),
        ("a.csv", b"", "there is no column 'answers', and none for a class"),
        ("a.csv", b"query\n1\n", "there is no column 'answers', and none for a class"),
        ("a.csv", b"bag,bag\n1,2\n", "its header names a column twice: bag, bag"),
        ("a.csv", b"bag,shoe\n1,2\n1\n", "row 2 has 1 cells, and its first line names 2"),
        ("a.csv", b"bag,shoe\n1,x\n", "could not convert string to float: 'x'"),
        ("a.csv", b"answers,bag\nbag,1\n", r"it has 'answers' and other columns \(bag\); expected one or the other"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SuspectError, match=text):
        opened(tmp_path / name)


def test_npz_without_answers_or_with_objects(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=QUERIES)
    with pytest.raises(SuspectError, match="it holds the arrays x; expected one called 'answers'"):
        opened(tmp_path / "a.npz")
    np.savez(tmp_path / "c.npz", answers=np.float32(1))
    with pytest.raises(SuspectError, match="'answers' must hold one label, or equally many numbers, for each query"):
        opened(tmp_path / "c.npz")
    np.savez(tmp_path / "b.npz", answers=np.array(LABELS, object))
    with pytest.raises(SuspectError, match="cannot be read as a file of answers: .*holds Python objects"):
        opened(tmp_path / "b.npz")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SuspectError, match=r"needs the package pyarrow, .* pip install 'dynamarks_tf\[parquet\]'"):
        opened(tmp_path / "a.parquet")
