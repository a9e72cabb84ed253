"""The pages that studies write: they agree with the results, which keep what the pages need and no more."""

import dataclasses
import json
import re
import shutil
from xml.etree import ElementTree

import pytest

pytest.importorskip("PIL", reason="Pillow is in the extra `study`")

from benchmarks import result_file
from benchmarks.studies import (
    calibration,
    class_choice,
    class_rows,
    edge,
    fresh_holes,
    frontier,
    keys_per_client,
    kinds,
    label_memory,
    picture,
    questions,
    reference_models,
    results_page,
    robustness,
    robustness_page,
    sigmoids,
    trace,
)
from benchmarks.studies.baselines import page as baselines
from benchmarks.studies.baselines import study
from dynamarks_tf.audit.results import Results, read
from tests.helpers import ROOT

DOCS = ROOT / "docs"
AUDITS = [path for path in sorted(robustness.RESULTS.glob("*-seed*.json")) if not path.name.startswith("frontier")]


def content(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("baselines.md", lambda page: baselines.report(content(study.RESULTS))),
        ("calibration.md", lambda page: calibration.report(content(calibration.RESULTS))),
        ("class-choice.md", lambda page: class_choice.report(robustness.RESULTS)),
        (
            "class-rows.md",
            lambda page: (
                page
                if not class_rows.RESULTS.exists()
                else class_rows.report(page, class_rows.read(class_rows.RESULTS))
            ),
        ),
        ("edge.md", edge.STUDY.report),
        ("frontier.md", lambda page: frontier.report(frontier.read_rows(robustness.RESULTS))),
        ("heads.md", sigmoids.STUDY.report),
        ("keys-per-client.md", keys_per_client.STUDY.report),
        ("kinds.md", lambda page: kinds.report(page, kinds.RESULTS, sigmoids.STUDY.rows())),
        ("settings.md", label_memory.STUDY.report),
        ("questions.md", questions.STUDY.report),
        ("reference-models.md", reference_models.STUDY.report),
        ("results.md", results_page.report),
        ("threat-model.md", fresh_holes.STUDY.report),
        ("trace.md", trace.STUDY.report),
    ],
)
def test_pages_are_what_their_study_writes(name, made):
    page = (DOCS / name).read_text()
    assert made(page) == page, f"{name}: run its study with --report"


def test_the_page_of_robustness_is_what_its_study_writes_with_all_its_pictures(tmp_path):
    page = (DOCS / "robustness.md").read_text()
    assert robustness_page.report(robustness.RESULTS, tmp_path) == page, "run robustness.py --report"
    for path in tmp_path.iterdir():
        assert f"]({path.name})" in page
        assert (DOCS / path.name).exists()


def test_figures_of_the_readme_come_from_the_page_of_results():
    readme, results = (ROOT / "README.md").read_text(), (DOCS / "results.md").read_text().splitlines()
    assert results_page.readme(readme) == readme, "run results_page.py"
    measured = re.findall(r"^\|.*(?:-\d+\.\d|\d\.\d\d).*$", readme, re.MULTILINE)
    assert len(measured) > 3
    assert [row for row in measured if row not in results] == []


def test_a_study_without_results_leaves_its_table_empty(monkeypatch, tmp_path):
    monkeypatch.setattr(questions, "STUDY", dataclasses.replace(questions.STUDY, script=str(tmp_path / "none.py")))
    before = (DOCS / "results.md").read_text()
    page = results_page.report(before)
    assert page.count(results_page.MISSING) == before.count(results_page.MISSING) + 1
    assert page.split("<!-- table: questions -->\n")[1].startswith(results_page.MISSING)


def test_pictures_are_svg_with_the_same_bytes_in_every_run(tmp_path):
    drawn = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        path = picture.save_svg(calibration.figure(content(calibration.RESULTS)), folder)
        drawn.append(path.read_bytes())
    assert drawn[0] == drawn[1]
    assert ElementTree.fromstring(drawn[0]).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(--ink)" in drawn[0].decode()
    assert "prefers-color-scheme: dark" in drawn[0].decode()


def test_a_value_on_a_step_counts_there():
    kept = calibration.counts([0.0, -0.0499, -0.05, -0.15, -1.0, -0.9999])
    assert kept["smallest"] == -1
    assert kept["at_most"][:5] == [6, 4, 3, 3, 2]
    assert kept["at_most"][19:] == [2, 1]
    rows = [{"at_most": [1000, 40, 2]}, {"at_most": [1000, 60]}]
    assert calibration.share(rows, -1 / calibration.STEPS) == 0.05
    assert calibration.share(rows, -3) == 0


@pytest.mark.parametrize("path", AUDITS, ids=lambda path: path.stem)
def test_the_audit_goes_on_from_compact_results(path, tmp_path):
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    robustness.compact(copy, channels=path.name.startswith("class-choice"))
    assert copy.read_text() == path.read_text()
    results = Results(copy, read(path)["settings"])
    assert results.has(kind="cost", budget=0.05, tie_margin=0.5)
    results.add({"kind": "theft", "findings": {}, "seconds": 1.5}, {})
    robustness.compact(copy, channels=True)
    assert read(copy)["rows"] == [*read(path)["rows"], {"kind": "theft", "findings": {}}]


def test_results_have_one_row_a_line_and_short_numbers(tmp_path):
    path = tmp_path / "results.json"
    result_file.write(path, {"version": 1, "rows": [{"p": 0.8822857142857143}, {"p": -0.0}], "by": {"a": {"n": 2}}})
    assert path.read_text().splitlines() == [
        "{",
        ' "version": 1,',
        ' "rows": [',
        '  {"p": 0.882286},',
        '  {"p": -0.0}',
        " ],",
        ' "by": {',
        '  "a": {"n": 2}',
        " }",
        "}",
    ]
