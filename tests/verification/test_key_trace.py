"""Which client's own model a suspect learned from: one set of answers to fresh queries, tested with every key."""

import dataclasses
import json

import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf import recheck
from dynamarks_tf.case import bundle as bundles
from dynamarks_tf.case.key_trace import evidence_of_keys
from dynamarks_tf.errors import ArgumentError, BundleError, CommitmentError, ModelError, SuspectError
from dynamarks_tf.evidence.kept_answers import KeepingAccumulator
from dynamarks_tf.keys.client_keys import client_keys
from dynamarks_tf.keys.commitment import commit
from dynamarks_tf.verification.owner import resolve_owner
from dynamarks_tf.watermark import codebook
from tests.helpers import small_classifier
from tests.helpers.bundles import rewritten

CLIENTS = [f"client-{number}" for number in range(20)]
ATTACKER = "client-7"


class Counting:
    """A suspect that serves the answers of another model, and counts what it is asked."""

    def __init__(self, model):
        self.model, self.asked = model, 0

    def __call__(self, batch):
        self.asked += len(batch)
        return np.asarray(self.model(batch))


@pytest.fixture(scope="module")
def served(owner_model, key):
    """The model that the attacker was served; with amplitudes off, it answers nearly as a surrogate of it would."""
    return dm.mark(owner_model, key.for_client(ATTACKER), 0.1, amplitudes=False)


@pytest.fixture(scope="module")
def traced(served, key, digits, tmp_path_factory):
    suspect, bundle = Counting(served), tmp_path_factory.mktemp("keys") / "bundle.zip"
    arguments = {"queries": digits.x_test, "max_queries": 100, "keys": CLIENTS, "bundle": bundle}
    found = dm.trace(suspect, owner=served, key=key, **arguments)
    assert suspect.asked == 100  # once, for all keys
    return found, bundle


def test_the_client_whose_model_was_used_is_found_and_no_other(traced, key):
    found, _ = traced
    assert [*found.clients] == CLIENTS
    assert found.detected() == (ATTACKER,)
    strongest = found.clients[ATTACKER]
    assert strongest.adjusted_log10_p == pytest.approx(strongest.log10_p + np.log10(20))
    assert min(client.adjusted_log10_p for name, client in found.clients.items() if name != ATTACKER) > -1
    assert not found.verification.detected(0.1)  # the master key marked nothing
    assert found.clients[ATTACKER].commitment == key.for_client(ATTACKER).commitment


def test_it_is_what_verify_finds_with_the_key_of_the_client(traced, served, key, digits):
    alone = dm.verify(served, owner=served, key=key.for_client(ATTACKER), queries=digits.x_test, max_queries=100)
    traced_channels = traced[0].clients[ATTACKER].channels
    assert [each.statistic for each in traced_channels] == pytest.approx([each.statistic for each in alone.channels])
    assert traced[0].clients[ATTACKER].log10_p == pytest.approx(alone.log10_p)


def test_the_owner_may_be_clean_or_marked_with_the_master_key_but_not_for_an_unlisted_client(
    served, owner_model, key, digits
):
    few = {"key": key, "queries": digits.x_test[:100], "keys": [ATTACKER, "client-8"]}
    for owner in (owner_model, dm.mark(owner_model, key), resolve_owner(served, key.for_client(ATTACKER))):
        assert dm.trace(served, owner=owner, **few).detected() == (ATTACKER,)
    with pytest.raises(ModelError, match="marked with another key"):
        dm.trace(served, owner=served, **{**few, "keys": ["client-8"]})


def test_check_recomputes_every_client_with_the_master_key_and_says_what_it_cannot_do_without(traced, key):
    found, bundle = traced
    for known, expected in (
        (None, "can be checked with the master key only"),
        (key, "20 clients derive from the master"),
    ):
        checked = recheck.recheck(bundle, key=known)
        assert checked.clients == found.clients
        assert checked.evidence == found.verification
        assert expected in checked.steps[-1]
    assert recheck.public_summary(checked)["client_counts"] == {"tested": 20, "found": 1}
    assert ATTACKER not in json.dumps(recheck.public_summary(checked))
    with pytest.raises(BundleError, match="with another key than the one given"):
        recheck.recheck(bundle, key=key.for_client(ATTACKER))


def swap_names(clients):
    clients[0]["name"], clients[7]["name"] = clients[7]["name"], clients[0]["name"]


def swap_commitments(clients):
    clients[0]["commitment"], clients[7]["commitment"] = clients[7]["commitment"], clients[0]["commitment"]


def leave_one_out(clients):
    del clients[3]


def state_a_smaller_p(clients):
    clients[0]["adjusted_log10_p"] = clients[0]["log10_p"] = clients[0]["channels"][0]["log10_p"] = -9.0


def state_all_signs_agree(clients):
    """Without the key, only the statistic itself has to be believed: not what follows from it."""
    channel = clients[0]["channels"][0]
    channel["statistic"], channel["agreement"] = channel["largest_possible"], 1.0


@pytest.mark.parametrize(
    "forge", [swap_names, swap_commitments, leave_one_out, state_a_smaller_p, state_all_signs_agree]
)
def test_a_bundle_that_states_something_else_about_a_client_is_refused(traced, key, tmp_path, forge):
    def change(members):
        content = json.loads(members[bundles.TRACE])
        forge(content["clients"])
        members[bundles.TRACE] = json.dumps(content).encode()

    rewritten(traced[1], tmp_path / "forged.zip", key, change)
    for known in (None, key):
        with pytest.raises(BundleError, match="client|commitments to their keys"):
            recheck.recheck(tmp_path / "forged.zip", key=known)


def test_tables_of_many_classes_depend_on_the_key_and_are_recomputed_with_it_only(key, tmp_path):
    model = small_classifier((8,), 40)
    served, bundle = dm.mark(model, key.for_client("b"), 0.1, amplitudes=False), tmp_path / "bundle.zip"
    x = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    found = dm.trace(served, owner=served, key=key, keys=["a", "b"], queries=x, bundle=bundle)
    assert found.clients["b"].log10_p < -3 < found.clients["a"].log10_p
    assert "tables of 40 classes depend on the keys" in recheck.recheck(bundle).steps[-1]
    assert recheck.recheck(bundle, key=key).clients == found.clients

    def more_signs(members):
        content = json.loads(members[bundles.TRACE])
        content["clients"][0]["channels"][0]["num_cells"] += 1
        members[bundles.TRACE] = json.dumps(content).encode()

    rewritten(bundle, tmp_path / "forged.zip", key, more_signs)
    with pytest.raises(BundleError, match="client 'a'"):
        recheck.recheck(tmp_path / "forged.zip", key=key)


def test_an_independent_suspect_is_named_under_few_master_keys(traced):
    """The least adjusted p of six clients is at most 0.1 under at most about a tenth of all master keys."""
    plan = dataclasses.replace(traced[0].verification.plan, num_classes=5, table_rows=5, table_columns=5)
    rng = np.random.default_rng(0)
    clean = rng.dirichlet(np.full(5, 0.3), 200)
    suspect = clean * rng.lognormal(0, 0.7, clean.shape)
    book = codebook.expand(dm.MarkKey(bytes(32), "x"), 5, plan.params)
    accumulator = KeepingAccumulator(("class",), book.keyed_hash, plan.params)
    accumulator.add(clean, suspect / suspect.sum(axis=1, keepdims=True))
    least = []
    for number in range(120):
        keys = client_keys(dm.MarkKey(number.to_bytes(32, "big"), "x"), [*"abcdef"])
        found = evidence_of_keys(keys.items(), accumulator, plan)
        least.append(min(client.adjusted_log10_p for client in found.values()))
    assert len({*np.round(least, 3)}) > 10
    assert np.mean(np.array(least) <= -1) <= 0.1
    assert min(least) > -3


def test_a_statement_of_the_master_key_goes_with_a_trace_and_that_of_a_client_with_its_own_key(
    served, key, digits, tmp_path
):
    few = {"owner": served, "queries": digits.x_test[:50]}
    of_master, of_client = commit(key), commit(key.for_client(ATTACKER))
    traced = dm.BundleOptions(tmp_path / "traced.zip", statement=of_master)
    dm.trace(served, key=key, keys=[ATTACKER], bundle=traced, **few)
    wrong = dm.BundleOptions(tmp_path / "wrong.zip", statement=of_client)
    with pytest.raises(CommitmentError, match="Use the key that was committed to"):
        dm.trace(served, key=key, keys=[ATTACKER], bundle=wrong, **few)
    alone = dm.BundleOptions(tmp_path / "alone.zip", statement=of_client, reveal_key=True)
    dm.verify(served, key=key.for_client(ATTACKER), bundle=alone, **few)
    revealed = recheck.recheck(tmp_path / "alone.zip")
    assert revealed.with_key
    assert revealed.case.statement == of_client


def test_what_is_no_trace_by_keys_is_refused_before_the_suspect_is_asked(served, key, digits):
    suspect = Counting(served)
    x = digits.x_test[:20]
    wrong = [
        ({"keys": ["a"]}, "give them as `queries`"),
        ({"queries": x}, "Received: queries without keys"),
        ({}, "Received: neither"),
        ({"keys": ["a"], "queries": x, "log": "logs"}, "Give one of the two"),
        ({"keys": ["a"], "queries": x, "groups": [("a", "b")]}, "Give one of the two"),
        ({"keys": ["a", "a"], "queries": x}, "each client once"),
        ({"keys": [], "queries": x}, "from 1 to"),
        ({"keys": ["a"], "queries": x, "key": key.for_client("b")}, "Use the owner's master key"),
        ({"keys": ["a"], "queries": x, "key": "acme.key"}, "`key` must be a MarkKey"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ArgumentError, match=message):
            dm.trace(suspect, owner=served, **{"key": key, **arguments})
    assert suspect.asked == 0


def test_labels_to_fresh_queries_show_no_key(served, key, digits):
    with pytest.raises(SuspectError, match="answers labels"):
        dm.trace(
            lambda x: np.asarray(served(x)).argmax(axis=1),
            owner=served,
            key=key,
            keys=[ATTACKER],
            queries=digits.x_test,
        )
