"""Queries drawn from a committed pool: asked, checked from the bundle, refused where anything was left to choose."""

import dataclasses
import json

import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf import recheck
from dynamarks_tf.case import bundle as bundles
from dynamarks_tf.case import transcript
from dynamarks_tf.case.draw import draw
from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ArgumentError, BundleError, CommitmentError, FormatError
from dynamarks_tf.report import wording
from dynamarks_tf.report.content import bundle_report
from dynamarks_tf.suspects.queries import as_queries
from tests.helpers.bundles import npz, rechain, rewritten
from tests.helpers.pools import many_digits

BEACON, SOURCE = "9f86d081884c7d65", "drand, round <4812345>"


@pytest.fixture(scope="module")
def case(tmp_path_factory, digits, marked_model, surrogate, key):
    """A folder with owner model, suspect, key, pool and statement, and the bundle of a draw from it."""
    folder = tmp_path_factory.mktemp("draw")
    marked_model.save(folder / "marked.keras")
    surrogate.save(folder / "suspect.keras")
    key.save(folder / "acme.key")
    np.save(folder / "pool.npy", many_digits(digits, 1200))
    described = dm.committed_pool(folder / "pool.npy", max_queries=60, draw=500)
    statement = dm.commit(key, model=folder / "marked.keras", pool=described)
    statement.save(folder / "statement.json")
    pool = dm.Pool(folder / "pool.npy", statement, BEACON, SOURCE)
    bundle = dm.BundleOptions(folder / "bundle.zip", include_queries=True)
    result = dm.verify(surrogate, owner=folder / "marked.keras", key=key, queries=pool, bundle=bundle)
    return folder, pool, result


def test_a_draw_finds_the_surrogate_and_can_be_repeated_from_its_bundle(case, key):
    folder, pool, result = case
    assert result.detected()
    assert result.num_queries == 60
    assert result.plan.provenance["beacon"] == BEACON
    given = as_queries(folder / "pool.npy")
    without, checked = (recheck.recheck(folder / "bundle.zip", key=key, pool=inputs) for inputs in (None, given))
    told = next(step for step in checked.steps if "drawn" in step)
    assert f"drawn from a committed pool of 1200 inputs by '{BEACON}' ('{SOURCE}')" in told
    assert "repeated from pool, commitment and public value" in told
    assert "The pool given is the committed one, and holds these queries." in told
    assert any("takes the pool" in caveat for caveat in without.caveats)
    assert not any("takes the pool" in caveat for caveat in checked.caveats)
    assert any("published before anybody knew the public value" in caveat for caveat in checked.caveats)
    asked = set(checked.case.selected.tolist())
    assert asked < set(draw(pool.statement.pool, key.commitment, BEACON).tolist())


def test_the_report_says_in_plain_words_that_nobody_could_choose(case, key):
    meaning = " ".join(wording.meaning(bundle_report(recheck.recheck(case[0] / "bundle.zip", key=key), num_decoys=10)))
    assert f"The public value “{BEACON}” (its source, as the owner says: {SOURCE}) then drew 500 inputs" in meaning
    assert "published before anybody knew that value" in meaning
    assert "is not mended by a draw" in meaning


def test_another_pool_is_refused_by_verify_and_by_check(case, key, surrogate):
    folder, pool, _ = case
    inputs = np.load(folder / "pool.npy")
    others = {"one input less": inputs[1:], "another order": inputs[::-1], "one pixel": inputs + (inputs == inputs[7])}
    for other in others.values():
        with pytest.raises(BundleError, match="the statement commits to a pool of 1200 inputs with SHA-256"):
            recheck.recheck(folder / "bundle.zip", pool=as_queries(other))
        with pytest.raises(CommitmentError, match="Use the pool that was committed to"):
            dm.verify(
                surrogate, owner=folder / "marked.keras", key=key, queries=dataclasses.replace(pool, inputs=other)
            )


def test_what_the_statement_fixes_cannot_be_chosen_later(case, key, surrogate):
    folder, pool, _ = case
    given = {"owner": folder / "marked.keras", "key": key, "queries": pool}
    without_pool = dm.commit(key, model=folder / "marked.keras")
    for options, error, message in (
        ({"max_queries": 61}, ArgumentError, "commits to 60 queries"),
        ({"seed": 1}, ArgumentError, "`seed` .* has no part in it"),
        ({"logged": True}, ArgumentError, "Only fresh queries"),
        ({"queries_from": "other-side"}, ArgumentError, "says who named the inputs"),
        ({"queries_from": "me"}, ArgumentError, "must be 'owner' or 'other-side'"),
        ({"bundle": dm.BundleOptions(folder / "b.zip", without_pool)}, ArgumentError, "is not that of the pool"),
        ({"owner": folder / "suspect.keras"}, CommitmentError, "Use the file that was committed to"),
    ):
        with pytest.raises(error, match=message):
            dm.verify(surrogate, **{**given, **options})
    with pytest.raises(ArgumentError, match="The statement given names none"):
        dm.Pool(pool.inputs, without_pool, BEACON)
    with pytest.raises(ArgumentError, match="--beacon.* must be a line"):
        dm.Pool(pool.inputs, pool.statement, "two\nlines")
    with pytest.raises(ArgumentError, match="at least twice the inputs drawn.*Give a larger pool"):
        dm.committed_pool(pool.inputs)


def test_a_forger_cannot_state_a_draw_that_was_not_one(case, key, tmp_path):
    """Who holds the key can sign any bundle. Each lie meets the draw, the choice, the statement or the pool."""
    folder, _, _ = case

    def planned(change):
        def rewrite(members):
            head, evidence = (json.loads(members[name]) for name in (transcript.HEAD, bundles.EVIDENCE))
            change(head["plan"])
            head["plan_sha256"] = TestPlan.from_dict(head["plan"], "x").digest
            evidence |= {"plan": head["plan"], "plan_sha256": head["plan_sha256"]}
            members[transcript.HEAD] = json.dumps(head).encode()
            members[bundles.EVIDENCE] = json.dumps(evidence).encode()
            rechain(members, key)

        return rewrite

    def other_choice(members):
        classes, confidences = np.zeros(500, np.int64), np.full(500, 0.5)
        members[bundles.DRAW] = npz(classes=classes, confidences=confidences)

    lies = {
        "is not what commitment, pool and public value give": planned(
            lambda plan: plan["provenance"].update(beacon="x")
        ),
        "does not name the pool": planned(lambda plan: plan["provenance"]["pool"].update(size=1300)),
        "what was drawn is not": other_choice,
        "does not hold classes and confidences of 500": lambda members: members.update(
            {bundles.DRAW: npz(classes=[1])}
        ),
        "are not those that the draw": lambda members: members.update(
            {bundles.SELECTION: npz(indices=np.arange(60, dtype=np.int64))}
        ),
        "the statement in it does not name": lambda members: members.pop(bundles.STATEMENT),
    }
    for number, (message, lie) in enumerate(lies.items()):
        rewritten(folder / "bundle.zip", tmp_path / f"{number}.zip", key, lie)
        with pytest.raises(BundleError, match=message):
            recheck.recheck(tmp_path / f"{number}.zip", key=key)


def test_plans_that_contradict_themselves_are_refused(case):
    plan = case[2].plan.to_dict()
    drawn = plan["provenance"]
    for provenance in (
        {"kind": "own"},
        {"kind": "log"},
        {"kind": "best"},
        {**drawn, "beacon": "a\n"},
        {**drawn, "x": 1},
        7,
    ):
        with pytest.raises(FormatError, match="is damaged: it"):
            TestPlan.from_dict({**plan, "provenance": provenance}, "x")


def test_who_named_other_queries_stands_in_plan_check_and_report(digits, marked_model, surrogate, key, tmp_path):
    for queries_from, kind, told, meant in (
        ("owner", "own", "the owner's own choice", "This is the weakest case"),
        ("other-side", "named", "named by the other side, as the owner states", "Compare the digest"),
    ):
        path = tmp_path / f"{kind}.zip"
        given = {"queries": digits.x_test[:60], "queries_from": queries_from, "bundle": path}
        result = dm.verify(surrogate, owner=marked_model, key=key, **given)
        assert result.plan.provenance == {"kind": kind}
        checked = recheck.recheck(path)
        assert any(told in step for step in checked.steps)
        assert meant in " ".join(wording.meaning(bundle_report(checked, num_decoys=10)))
        with pytest.raises(BundleError, match="were not drawn from a pool. Check it without one"):
            recheck.recheck(path, pool=as_queries(digits.x_test))


def test_the_commands_draw_and_check(case, capsys, tmp_path):
    folder, _, result = case

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    code, out, _ = run(
        *("commit", folder / "acme.key", "--model", folder / "marked.keras", "--pool", folder / "pool.npy"),
        *("--max-queries", 60, "--draw", 500, "--out", tmp_path / "statement.json"),
    )
    assert code == 0
    assert json.loads(out)["pool"] == result.plan.provenance["pool"]
    asked = ("verify", folder / "suspect.keras", "--owner", folder / "marked.keras", "--key", folder / "acme.key")
    drawn = (*asked, "--pool", folder / "pool.npy", "--statement", tmp_path / "statement.json")
    code, out, _ = run(*drawn, "--beacon", BEACON, "--beacon-source", SOURCE, "--bundle", tmp_path / "b.zip")
    assert code == 0
    assert f"drawn from a committed pool of 1200 inputs by '{BEACON}'" in out
    code, out, _ = run("check", tmp_path / "b.zip", "--pool", folder / "pool.npy")
    assert code == 0
    assert "The pool given is the committed one" in out
    for arguments, message in (
        (drawn, "needs --beacon VALUE and the --statement"),
        ((*asked, "--queries", folder / "pool.npy", "--beacon", "x"), "are about a draw from a pool"),
        (
            (*drawn, "--beacon", "x", "--queries", folder / "pool.npy"),
            "takes no other inputs",
        ),
        ((*drawn, "--beacon", "x", "--queries-from", "other-side"), "is for the inputs of --queries"),
        (("commit", folder / "acme.key", "--draw", 5), "give it by --pool"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert message in " ".join(err.split())
