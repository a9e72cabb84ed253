"""Recommended settings: the mildest that is strong enough in every theft."""

from dynamarks_tf.audit import tables
from dynamarks_tf.audit.recommendation import recommend, strength, summarize


def row(budget, log10_p, **more):
    findings = {"100 fresh": {"log10_p": log10_p, "queries_needed": None}}
    names = {"extraction": "full", "architecture": "mlp", "removal": "none", "kind": "theft", "tie_margin": 0.5}
    names["accuracy"] = 0.88
    return {**names, "budget": budget, "findings": findings, **more}


def cost(budget, lost, variation):
    accuracy = {"clean_accuracy": 0.9, "marked_accuracy": 0.9 - lost, "mean_total_variation": variation}
    return {"kind": "cost", "budget": budget, "tie_margin": 0.5, "cost": accuracy}


ROWS = [
    cost(0.1, 0.001, 0.05),
    row(0.1, -30.0),
    row(0.1, -20.0, removal="fine-tune all"),
    cost(0.02, 0.0, 0.01),
    row(0.02, -12.0),
    row(0.02, -4.0, removal="fine-tune all"),
    cost(0.05, 0.002, 0.025),
    row(0.05, -15.0),
    row(0.05, -8.0, removal="fine-tune all"),
    row(0.05, 0.0, kind="independent", extraction="true labels"),
]


def test_the_mildest_setting_that_is_strong_enough_everywhere_is_recommended():
    found = recommend(ROWS, wanted=-6, accuracy_cost=0.003)
    assert found.chosen.budget == 0.05
    assert found.chosen.log10_p == -8
    assert [setting.budget for setting in found.settings] == [0.02, 0.05, 0.1]
    assert "budget 0.05, tie margin 0.5" in found.description


def test_the_limit_on_accuracy_holds():
    assert recommend(ROWS, wanted=-6, accuracy_cost=0.0015).chosen.budget == 0.1
    found = recommend(ROWS, wanted=-6, accuracy_cost=-0.01)
    assert found.chosen is None
    assert "no setting keeps the loss of accuracy within" in found.description


def test_when_nothing_is_strong_enough_the_nearest_and_its_weakness_are_named():
    found = recommend(ROWS, wanted=-25, accuracy_cost=0.003)
    assert found.chosen is None
    assert "Nearest: budget 0.1" in found.description
    assert "the weakest is full, mlp, fine-tune all" in found.description


def test_a_suspect_that_a_removal_attack_made_worthless_does_not_count():
    assert recommend([*ROWS, row(0.05, 0.0, accuracy=0.79)]).chosen.budget == 0.05
    assert recommend([*ROWS, row(0.05, 0.0, accuracy=0.81)]).chosen.budget == 0.1


def test_a_recommendation_of_one_seed_says_so():
    assert "This is one seed" in recommend(ROWS).description
    assert "This is one seed" not in recommend([*ROWS, row(0.1, -25.0, seed=1)]).description


def test_the_worst_seed_counts():
    worse = row(0.05, -1.0, seed=1)
    assert summarize([*ROWS, worse])[1].log10_p == -1.0


def test_the_worst_is_the_weakest_evidence_of_thefts_and_the_strongest_of_independent_models():
    thefts = [row(0.05, -9.0), row(0.05, -3.0, seed=1)]
    independent = [{**each, "kind": "independent"} for each in thefts]
    column = next(iter(thefts[0]["findings"]))
    assert tables.worst(thefts, column) == -3.0
    assert tables.worst(independent, column) == -9.0
    assert tables.worst(thefts, "of another kind") is None


def test_the_strength_of_a_theft_is_that_of_its_strongest_queries():
    findings = {"10 fresh": {"log10_p": -3.0}, "logged": {"log10_p": -9.0}}
    assert strength({"findings": findings}) == -9.0
