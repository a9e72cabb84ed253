"""Studies that are repeated with several seeds keep what was measured before."""

import json

import pytest

from benchmarks.seeded_study import SeededStudy


@pytest.fixture
def study(tmp_path):
    settings = {"sizes": (1, 2)}
    return SeededStudy(str(tmp_path / "some_study.py"), "page.md", settings, lambda seed: [], lambda rows: f"{rows}\n")


def test_rows_of_other_seeds_stay_and_those_of_the_same_are_replaced(study):
    study.keep([{"seed": 11, "p": 1}, {"seed": 11, "p": 2}])
    study.keep([{"seed": 10, "p": 3}])
    assert study.keep([{"seed": 11, "p": 4}]) == [{"seed": 10, "p": 3}, {"seed": 11, "p": 4}]
    assert study.rows() == [{"seed": 10, "p": 3}, {"seed": 11, "p": 4}]
    content = json.loads((study.results.parent / "some-study.json").read_text())
    assert (content["format"], content["version"]) == ("dynamarks-some-study-study", 1)


def test_results_of_other_settings_are_not_written_to(study, monkeypatch):
    study.keep([{"seed": 10}])
    before = study.results.read_bytes()
    other = SeededStudy(study.script, study.page, {"sizes": [3]}, study.study, study.table)
    with pytest.raises(SystemExit, match="settings.*move it away"):
        other.keep([{"seed": 11}])
    monkeypatch.setattr("sys.argv", ["some_study.py", "--seed", "11"])
    with pytest.raises(SystemExit, match="move it away"):
        other.main("before anything is measured")
    assert study.results.read_bytes() == before


def test_the_table_stands_between_its_marks(study):
    study.keep([{"seed": 10}])
    begin, end = "<!-- table: python benchmarks/studies/some_study.py --report -->\n", "<!-- end of table -->\n"
    assert study.report(f"before\n{begin}old\n{end}after\n") == f"before\n{begin}[{{'seed': 10}}]\n{end}after\n"
