"""What the pages of robustness and frontier say of their rows."""

import pytest

pytest.importorskip("PIL", reason="Pillow is in the extra `study`")

from benchmarks.studies import frontier, robustness, robustness_page


def row(log10_p, extraction="full", removal="none", seed=0, accuracy=0.88):
    findings = {name: {"log10_p": value, "queries_needed": None} for name, value in log10_p.items()}
    name = {"extraction": extraction, "architecture": "separable_cnn", "removal": removal}
    return {"seed": seed, **name, "accuracy": accuracy, "findings": findings}


def test_scenarios_that_no_queries_detect_are_listed_with_a_reason_by_their_worst_seed():
    rows = [
        row({"100 fresh": -20.0, "logged": -90.0}),
        row({"100 fresh": 0.0, "logged": -1.0}, removal="new head"),
        row({"100 fresh": 0.0, "logged": -9.0}, extraction="labels"),
        row({"100 fresh": -9.0, "logged": -1.0}, extraction="top 1"),
        row({"100 fresh": -5.0, "logged": -1.0}, extraction="top 1", seed=1),
    ]
    lines = robustness_page.weak(rows)
    weak = [line for line in lines if line.startswith("| ") and "separable_cnn" in line]
    assert [line.split(" | ")[:3] for line in weak] == [
        ["| full", "separable_cnn", "new head"],
        ["| top 1", "separable_cnn", "none"],
    ]
    assert "the features hold no evidence" in weak[0]
    assert "| -5.0 |" in weak[1]
    assert lines[-1] == "Scenarios that logged queries detect, and fresh ones do not: labels (separable_cnn)."


def test_figures_that_got_weaker_are_held_against_the_same_seeds():
    cells = [{"name": ["full", "separable_cnn", "none"], "log10_p": {"100 fresh": {"0": -20.0, "1": -8.0}}}]
    before = {"scheme": "one", "cells": cells}
    kept = robustness_page.weaker([row({"100 fresh": -19.0})], before)
    said = (
        "Of its figures that detected, 1 were measured again. Now {} are stronger by more than a quarter, and {} weaker"
    )
    assert said.format(0, 0) in " ".join(kept)
    assert said.format(1, 0) in " ".join(robustness_page.weaker([row({"100 fresh": -26.0})], before))
    lost = robustness_page.weaker([row({"100 fresh": -12.0})], before)
    assert lost[-1] == "| full | separable_cnn | none | 100 fresh | -20.0 | -12.0 |"
    assert said.format(0, 1) in " ".join(lost)
    assert "0 detect no longer" in " ".join(lost)
    assert "none of the 1 weaker figures of fresh queries" in " ".join(lost)
    assert "1 detect no longer" in " ".join(robustness_page.weaker([row({"100 fresh": -5.0})], before))


def test_every_attack_on_images_is_in_the_matrix_once():
    found = robustness.scenarios("fashion-mnist")
    assert len(set(found)) == len(found)
    assert found[0] == robustness.Scenario("full")


def test_the_frontier_is_the_cheapest_strength_of_all_seeds_that_is_not_detected():
    def swept(strength, accuracy, log10_p, seed=0, family="prune"):
        found = {"100 fresh": log10_p, "logged": log10_p - 2}
        name = {"seed": seed, "family": family, "labels": 0, "strength": strength}
        return {**name, "accuracy": accuracy, "log10_p": found}

    rows = [
        swept(0, 0.90, -20, family="none"),
        swept(0, 0.80, -20, seed=1, family="none"),
        swept(0.3, 0.88, -9),
        swept(0.6, 0.85, -5),
        swept(0.6, 0.78, -5, seed=1),
        swept(0.8, 0.60, -1),
    ]
    assert frontier.least_lost(rows, "prune", 0, "100 fresh") == pytest.approx((2.0, 0.6))
    assert frontier.least_lost(rows, "prune", 0, "any") == pytest.approx((30.0, 0.8))
    assert frontier.least_lost(rows[:3], "prune", 0, "any") is None
    assert "| prune | 0 |" in frontier.report({"digits-mixed": rows})
    assert frontier.cheapest("digits-mixed", rows).rows[0] == ("0", "-", "prune 30.0", "-")
    assert frontier.cheapest("digits-mixed", rows[:3]).rows[0] == ("0", "-", "", "prune")
    assert "not reached" in frontier.figure("digits-mixed", rows[:3]).alt
