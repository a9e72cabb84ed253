"""Vectors and text with labels from files: what is taken, what is said about it, and what is refused."""

import gzip
import sys
import uuid

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
    assert "labels: column 'y';" in data.describe()
    assert "labels: column 'c';" in datasets.load(_csv(tmp_path, "a,b,c", [r[::2] + r[1:2] for r in rows])).source


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
    assert "only the first" in datasets.load_table(path, max_bytes=5000).source
    assert "only the first" not in datasets.load_table(path).source


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("1,2", [(3, 0), (4, 1)], "starts with numbers; its first line must name the columns"),
        ("a,y,label", [(1, 0, 1), (2, 1, 0)], "several columns that could hold the labels: 'y', 'label'"),
        ("a,label", [(1, 0), ("", 1)], "column 'a' has no value in row 2"),
        ("a,label", [(1, 0), (2, "")], "column 'label' has no value in row 2"),
        ("a,label", [(1, 0), (2, 1, 5)], "row 2 has 3 cells, and its first line names 2"),
        ("a,b,label", [(1, "x", 0), (2, "z", 1)], "column 'b' holds 'x' in row 1; expected numbers"),
        ("a,label", [(1, 0), (2, 1), ("n/a", 1)], "column 'a' holds 'n/a' in row 3; expected numbers"),
        ("a,b,label", [(1, 1, 0), ("nan", 2, 1), (3, 3, 1)], "column 'a' holds 'nan' in row 2; expected numbers"),
        (
            "a,b",
            [(1, 1.5), (2, 2.5)],
            "column 'b' holds '1.5' in row 1; .*Labels stand in a column named label or labels",
        ),
        ("a,label", [(1, -1), (2, 1)], "holds '-1' in row 1; expected class indices from 0, or names"),
        ("a,label", [(1, 0), (2, 1), (3, "x")], "holds 'x' in row 3; expected class indices from 0, or names"),
        ("a,label", [(1, 10**9), (2, 1)], "holds '1000000000' in row 1"),
        ("a,label", [(1, 3), (2, 3)], "column 'label' holds the same label in each row"),
        ("a,label", [], "has 2 columns and 0 rows; expected labels and one or more other columns"),
        ("label", [(1,), (0,)], "has 1 columns and 2 rows"),
        ("a,label", [(1e300, 0), (2, 1)], "numbers too large for float32"),
        ("a,label", [("x" * 200_000, 0), ("y", 1)], "field larger than field limit"),
        ("a," * 10_001 + "label", [(1,) * 10_002] * 2, "at most"),
        ("a\u202e\n,label", [(1, 0)], "its first line names 1"),
    ],
)
def test_tables_that_cannot_be_understood_are_refused(tmp_path, header, rows, message):
    with pytest.raises(DatasetError, match=message):
        datasets.load(_csv(tmp_path, header, rows))


def test_a_line_without_an_end_is_not_read_whole(tmp_path):
    path = _csv(tmp_path, "a,label", [(1, "x" * 2**24)])
    with pytest.raises(DatasetError, match="a line of 16,777,216 or more characters"):
        datasets.load(path)


def test_a_parquet_table_is_read_as_its_csv(tmp_path, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"a": np.arange(3000.0), "b": np.arange(3000) * 2, "target": np.arange(3000) % 4}
    path = tmp_path / "table.parquet"
    parquet.write_table(arrow.table(columns), path)
    data, twin = datasets.load(path), datasets.load(_csv(tmp_path, "a,b,target", zip(*columns.values(), strict=True)))
    np.testing.assert_array_equal(data.x_train, twin.x_train)
    np.testing.assert_array_equal(data.y_test, twin.y_test)
    for column, message in (
        ([[1], [2]], r"holds '\[1\]' in row 1; expected numbers"),
        ([b"\xff", b"a"], "cannot be read as text: value 0 is bytes that are not UTF-8"),
        ([1.0, None], "column 'a' has no value in row 2"),
        ([1.0, np.nan], "column 'a' has no value in row 2"),
    ):
        others = {"b": [1, 2]} if isinstance(column[0], list) else {}
        parquet.write_table(arrow.table({"a": column, **others, "label": [0, 1]}), path)
        with pytest.raises(DatasetError, match=message):
            datasets.load(path)
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
    np.save(tmp_path / "objects.npy", np.array([{}, []] * 10, object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=np.array([{}, []] * 10, object), y=y)
    for pickled in ("objects.npy", "objects.npz"):
        labels = tmp_path / "y.npy" if pickled.endswith("npy") else None
        with pytest.raises(DatasetError, match="holds pickled Python objects, which could run code. Save numbers"):
            datasets.load(tmp_path / pickled, labels=labels)
    np.savez(tmp_path / "nan.npz", x=np.where(x == 3, np.nan, x), y=y)
    with pytest.raises(DatasetError, match="x_train holds values that are missing or too large"):
        datasets.load(tmp_path / "nan.npz")
    np.save(tmp_path / "few.npy", y[:5])
    with pytest.raises(DatasetError, match="has 20 rows; .*few.npy has 5"):
        datasets.load(tmp_path / "x.npy", labels=tmp_path / "few.npy")


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz", "table.csv.zst"])
def test_a_table_at_a_url_is_the_table_on_the_disk(tmp_path, name):
    import fsspec

    content = _csv(tmp_path, "a,label", [(index / 2, index % 2) for index in range(60)]).read_bytes()
    if name.endswith("gz"):
        content = gzip.compress(content)
    elif name.endswith("zst"):
        content = pytest.importorskip("backports.zstd").compress(content)
    root = f"memory://{uuid.uuid4()}"
    with fsspec.open(f"{root}/{name}", "wb") as file:
        file.write(content)
    there, here = datasets.load(f"{root}/{name}"), datasets.load(tmp_path / "table.csv")
    np.testing.assert_array_equal(there.x_train, here.x_train)
    assert f"{root}/{name}" in there.describe()
    assert there.describe() == datasets.load(f"{root}/{name}").describe()  # an audit goes on by it
    with pytest.raises(DatasetError, match="is not one file; of URLs, only files are loaded"):
        datasets.load(root)
    with pytest.raises(DatasetError, match="none.csv"):
        datasets.load(f"{root}/none.csv")
