"""`dynamarks audit`, end to end on real (small) images; its figures are those of `verify`."""

import json

import numpy as np
import pytest

from dynamarks_tf import datasets
from dynamarks_tf.audit import Results, crossed, run_audit
from dynamarks_tf.audit.attack_runner import audit_key
from dynamarks_tf.audit.examination import Examiner
from dynamarks_tf.audit.scenario import Scenario, full, quick
from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.watermark.marking import mark
from dynamarks_tf.watermark.model_digest import model_sha256
from dynamarks_tf.watermark.params import MarkParams
from tests.helpers import small_classifier, verifying


def test_the_examiner_finds_what_verify_finds(digits, owner_model, surrogate, key):
    params = MarkParams(0.1)
    marked = mark(owner_model, key, 0.1)
    sent, bound = digits.x_train[:400], key.bind(model_sha256(owner_model))
    examiner = Examiner(bound, params, owner_model.predict, (digits.x_test, digits.y_test), counts=(10, 100))
    found = examiner.examine(surrogate.predict, sent)["findings"]
    common = {"owner": marked, "key": key}
    expected = {
        "10 fresh": verifying.verify(surrogate, queries=digits.x_test, max_queries=10, **common),
        "100 fresh": verifying.verify(surrogate, queries=digits.x_test, max_queries=100, **common),
        "logged": verifying.verify(surrogate, queries=sent, logged=True, fresh=digits.x_test, **common),
        "logged, labels": verifying.verify(
            lambda x: np.asarray(surrogate(x)).argmax(axis=1), queries=sent, logged=True, suspect_labels=True, **common
        ),
    }
    assert found.keys() == expected.keys()
    for name, evidence in expected.items():
        assert found[name]["log10_p"] == pytest.approx(evidence.log10_p, abs=0.01), name
        assert found[name]["queries_needed"] == evidence.queries_needed(), name


@pytest.fixture(scope="module")
def model_file(owner_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("audit") / "model.keras"
    owner_model.save(path)
    return path


def test_an_audit_detects_surrogates_but_not_independent_models_and_writes_a_report(model_file, tmp_path, capsys):
    out = tmp_path / "audit"
    where = f"--model {model_file} --data digits --out {out}"
    how = "--epochs 40 --budget 0.2 --architecture mlp --extraction full --removal none --strength -3 --accuracy-cost 5"
    what = ["--extraction", "true labels", "--removal", "prune 30 %"]
    code = main(["audit", *where.split(), *how.split(), *what])
    shown = capsys.readouterr().out
    assert code == 0
    assert "Recommended: budget 0.2" in shown
    rows = {
        (r.get("extraction"), r.get("removal")): r for r in json.loads((out / "results-seed0.json").read_text())["rows"]
    }
    assert rows["full", "none"]["findings"]["100 fresh"]["log10_p"] < -6
    for removal in ("none", "prune 30 %"):
        assert all(finding["log10_p"] > -3 for finding in rows["true labels", removal]["findings"].values())
    report = (out / "report.md").read_text()
    assert "| full | mlp | prune 30 % | 1 |" in report
    assert "## Independent models: budget 0.2, tie margin 0.5" in report
    assert main(["audit", *where.split(), *how.split(), *what, "--json"]) == 0  # every scenario is there already
    answer, lines = capsys.readouterr()
    again = json.loads(answer)
    assert "digits" in lines  # lines for people go to standard error
    assert again["recommendation"]["chosen"]["budget"] == 0.2
    assert (out / "thefts-budget0.2-ties0.5.png").stat().st_size > 5000
    page = (out / "report.html").read_text()
    assert "budget 0.2, tie margin 0.5: every theft gives" in page
    assert page.count("<svg") == 2  # the same figure for wide pages and for phones
    assert '<td class="text">prune 30 %</td>' in page


def test_an_interrupted_audit_continues_but_not_with_another_rival(model_file, tmp_path, monkeypatch):
    data = datasets.load("digits")
    scenarios = crossed(["full", "labels"], ["none"], ["mlp"])
    options = {"scenarios": scenarios, "epochs": 2, "say": lambda line: None}
    add = Results.add

    def fails_after_the_first_theft(self, row, versions):
        if row.get("extraction") == "labels":
            raise KeyboardInterrupt
        add(self, row, versions)

    monkeypatch.setattr(Results, "add", fails_after_the_first_theft)
    with pytest.raises(KeyboardInterrupt):
        run_audit(model_file, data, tmp_path, **options)
    monkeypatch.setattr(Results, "add", add)
    before = json.loads((tmp_path / "results-seed0.json").read_text())["rows"]
    assert [row.get("extraction") for row in before] == [None, "full"]
    lines = []
    found = run_audit(model_file, data, tmp_path, **{**options, "say": lines.append})
    assert any("1 of 2 scenarios to go" in line for line in lines)
    assert [row.get("extraction") for row in found.rows] == [None, "full", "labels"]
    assert {**found.rows[1], "seed": 0} == {**before[1], "seed": 0}

    # Several processes give the same rows, in the same order.
    parallel = run_audit(model_file, data, tmp_path / "parallel", jobs=2, **options)
    untimed = [[{**row, "seconds": None} for row in result.rows] for result in (found, parallel)]
    assert untimed[0] == untimed[1]

    with pytest.raises(ArgumentError, match=r"results of another audit \(rival_sha256: None there"):
        run_audit(model_file, data, tmp_path, rival=small_classifier(seed=9), **options)


def test_images_of_another_size_are_refused(model_file, tmp_path):
    data = datasets.ImageData("x", "y", *(np.zeros(s) for s in ((9, 4, 4, 1), (9,), (9, 4, 4, 1), (9,))))
    with pytest.raises(ArgumentError, match=r"takes inputs of shape \(8, 8, 1\); the images of x have \(4, 4, 1\)"):
        run_audit(model_file, data, tmp_path)


def test_an_attack_that_needs_a_rival_is_refused_without_one(model_file, tmp_path):
    with pytest.raises(ArgumentError, match="'two APIs averaged', 'none' needs a second model for the same classes"):
        run_audit(model_file, datasets.load("digits"), tmp_path, scenarios=crossed(["two APIs averaged"]))


def test_unknown_names_are_refused_before_anything_is_trained():
    with pytest.raises(ArgumentError, match="no extraction called 'osmosis'"):
        Scenario("osmosis")
    with pytest.raises(ArgumentError, match="no architecture called 'brain'"):
        Scenario("full", "brain")


def test_selections_leave_out_attacks_that_the_attacker_has_no_means_for():
    names = {scenario.extraction for scenario in full(available=(), pool_size=2000)}
    assert {"full", "labels", "1,000 queries"} <= names
    assert not {"5,000 queries", "other domain", "two APIs averaged", "true labels"} & names
    assert {scenario.extraction for scenario in quick()} == {"full", "labels", "true labels"}


def test_the_attacks_are_listed(capsys):
    assert main(["audit", "--list"]) == 0
    shown = capsys.readouterr().out
    assert "floor subtracted" in shown
    assert "prune 60 %" in shown
    assert "vit" in shown


def test_anyone_can_derive_the_keys_of_an_audit():
    assert audit_key(1) == audit_key(1)
    assert audit_key(1).commitment != audit_key(1, 1).commitment != audit_key(2).commitment
