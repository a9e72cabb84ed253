"""Results of attacks: they grow row by row, can be continued, and are not mixed up."""

import json

import pytest

from dynamarks_tf.audit.results import Results, read, read_all
from dynamarks_tf.errors import ArgumentError, FormatError


def test_rows_survive_and_are_found_again(tmp_path):
    path = tmp_path / "sub" / "results.json"
    first = Results(path, {"seed": 3, "epochs": 2})
    first.add({"kind": "theft", "extraction": "full", "budget": 0.05}, {"keras": "3"})
    again = Results(path, {"seed": 3, "epochs": 2})
    assert again.has(extraction="full", budget=0.05)
    assert not again.has(extraction="full", budget=0.1)
    again.add({"kind": "theft", "extraction": "labels", "budget": 0.05}, {"keras": "3"})
    assert [row["extraction"] for row in read_all([path])] == ["full", "labels"]
    assert [row["seed"] for row in read_all([path])] == [3, 3]
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]


def test_results_of_another_audit_are_refused_with_the_difference(tmp_path):
    path = tmp_path / "results.json"
    Results(path, {"seed": 3, "epochs": 2}).add({"kind": "cost"}, {})
    with pytest.raises(ArgumentError, match=r"another audit \(epochs: 2 there, 5 now\). Name another folder"):
        Results(path, {"seed": 3, "epochs": 5})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "dynamarks-evidence"}, "results of an audit"),
        ({"version": 99}, "99"),
        ({"rows": None}, "is damaged: it has no rows"),
    ],
)
def test_other_files_are_refused(tmp_path, change, message):
    path = tmp_path / "results.json"
    Results(path, {"seed": 0}).add({"kind": "cost"}, {})
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FormatError, match=message):
        read(path)


def test_files_that_are_not_json_are_refused_by_name(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(FormatError, match=r"x.json cannot be read as results"):
        read(tmp_path / "x.json")
