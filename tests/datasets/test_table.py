"""Vectors and text with labels from files: what is taken, what is said about it, and what is refused."""

import sys

import numpy as np
import pytest

from dynamarks_tf import datasets
from dynamarks_tf.errors import DatasetError


def _csv(tmp_path, header, rows):
    path = tmp_path / "table.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]), encoding="utf-8")
    return path


def test_a_table_of_numbers_gives_vectors_and_says_which_column_held_the_labels(tmp_path):
    rows = [(index, index % 3, index / 2) for index in range(30)]
    data = datasets.load(_csv(tmp_path, "a,y,b", rows))
    assert (data.kind, data.x_train.shape, data.x_test.shape, data.num_classes) == ("vectors", (24, 2), (6, 2), 3)
    np.testing.assert_array_equal(data.x_train[:, 0] % 3, data.y_train)
    np.testing.assert_array_equal(data.x_train[:, 0], 2 * data.x_train[:, 1])
    assert "labels: column 'y', by its name" in data.describe()
    assert (
        "labels: column 'c', the last" in datasets.load(_csv(tmp_path, "a,b,c", [r[::2] + r[1:2] for r in rows])).source
    )


def test_a_table_of_texts_gives_bytes_and_numbers_the_names_of_its_classes(tmp_path):
    rows = [(f"größe {index}", "ham" if index % 2 else "eggs") for index in range(20)]
    data = datasets.load(_csv(tmp_path, "text,kind", rows))
    assert (data.kind, data.x_train.shape, data.class_names) == ("text", (16,), ("eggs", "ham"))
    expected = dict(rows)
    for text, label in zip(data.x_train, data.y_train, strict=True):
        assert expected[text.decode()] == data.class_names[label]
    assert "class names numbered in sorted order" in data.source


def test_no_more_is_read_than_the_bounds_say(tmp_path):
    path = _csv(tmp_path, "a,label", [(index, index % 2) for index in range(100)])
    data = datasets.load_table(path, max_rows=40)
    assert len(data.x_train) + len(data.x_test) == 40
    assert "only the first 40 rows were read" in data.source
    assert "only the first" in datasets.load_table(path, max_bytes=50).source
    assert "only the first" not in datasets.load_table(path).source


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("1,2", [(3, 0), (4, 1)], "starts with numbers; its first line must name the columns"),
        ("a,y,label", [(1, 0, 1), (2, 1, 0)], "several columns that could hold the labels: 'y', 'label'"),
        ("a,label", [(1, 0), ("", 1)], "row 2 has no value in column 'a'"),
        ("a,label", [(1, 0), (2, 1, 5)], "row 2 has 3 cells; its first line names 2"),
        ("a,b,label", [(1, "x", 0), (2, "z", 1)], "column 'b' holds text beside other columns"),
        ("a,label", [(1, 0.5), (2, 1)], "holds labels such as 0.5; expected class indices from 0, or names"),
        ("a,label", [(1, -1), (2, 1)], "holds labels such as -1"),
        ("label", [(1,), (0,)], "has 1 columns and 2 rows"),
        ("a,label", [(1e300, 0), (2, 0)], "numbers that float32 cannot hold"),
    ],
)
def test_tables_that_cannot_be_understood_are_refused(tmp_path, header, rows, message):
    with pytest.raises(DatasetError, match=message):
        datasets.load(_csv(tmp_path, header, rows))


def test_a_parquet_table_is_read_as_its_csv(tmp_path, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"a": np.arange(3000.0), "b": np.arange(3000) * 2, "target": np.arange(3000) % 4}
    path = tmp_path / "table.parquet"
    parquet.write_table(arrow.table(columns), path)
    data, twin = datasets.load(path), datasets.load(_csv(tmp_path, "a,b,target", zip(*columns.values(), strict=True)))
    np.testing.assert_array_equal(data.x_train, twin.x_train)
    np.testing.assert_array_equal(data.y_test, twin.y_test)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DatasetError, match="cannot be read as a Parquet file"):
        datasets.load(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DatasetError, match="takes pyarrow: pip install"):
        datasets.load(path)


def test_arrays_of_vectors_and_text(tmp_path):
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    np.savez(tmp_path / "set.npz", x=x, y=y)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    one, two = datasets.load(tmp_path / "set.npz"), datasets.load(tmp_path / "x.npy", labels=tmp_path / "y.npy")
    assert one.kind == two.kind == "vectors"
    np.testing.assert_array_equal(one.x_train, two.x_train)
    np.savez(tmp_path / "text.npz", x=np.array([f"text {index}" for index in range(20)]), y=y)
    text = datasets.load(tmp_path / "text.npz")
    assert text.kind == "text"
    assert sorted(text.x_train[text.y_train == 1])[0] == b"text 1"
    with pytest.raises(DatasetError, match="holds inputs alone. Name the file of their labels"):
        datasets.load(tmp_path / "x.npy")
    np.save(tmp_path / "few.npy", y[:5])
    with pytest.raises(DatasetError, match="has 20 rows; .*few.npy has 5"):
        datasets.load(tmp_path / "x.npy", labels=tmp_path / "few.npy")
