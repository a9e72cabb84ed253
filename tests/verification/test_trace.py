"""Which client's requests a suspect learned from: found by the signs that only this client saw, and by no other's."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dynamarks_tf as dm
from dynamarks_tf import recheck
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.case import bundle as bundles
from dynamarks_tf.errors import ArgumentError, BundleError
from dynamarks_tf.evidence.tracing import holm
from dynamarks_tf.request_logs import open_log
from tests.helpers import small_surrogate
from tests.helpers.bundles import npz, rewritten
from tests.helpers.tracing import CLIENTS


@pytest.mark.parametrize("labels", [False, True], ids=["probabilities", "labels"])
def test_the_clients_who_gave_answers_are_found_and_no_others(stolen, key, tmp_path, labels):
    api, surrogate, path = stolen
    suspect = (lambda x: np.asarray(surrogate(x)).argmax(axis=1)) if labels else surrogate
    bundle = tmp_path / "bundle.zip"
    found = dm.trace(
        suspect, owner=api, key=key, log=path, groups=[("dave", "bob"), ("alice", "carol")], alpha=1e-3, bundle=bundle
    )
    assert [*found.clients] == [*CLIENTS, "bob + dave", "alice + carol"]
    p = {name: client.adjusted_log10_p for name, client in found.clients.items()}
    assert p["alice"] > -1
    assert p["carol"] > -1
    assert p["alice + carol"] > -1
    if not labels:
        assert found.detected()[0] == "bob + dave"
        assert {*found.detected()} == {"bob", "dave", "bob + dave"}
        assert p["bob + dave"] < min(p["bob"], p["dave"])
    signs = {name: client.exclusive_signs for name, client in found.clients.items()}
    assert signs["alice + carol"] > signs["alice"] + signs["carol"]  # those that both saw
    assert all(each.channel != "class" for client in found.clients.values() for each in client.channels)
    for checked in (recheck.recheck(bundle), recheck.recheck(bundle, key=key)):
        assert checked.clients == found.clients
        assert checked.evidence == found.verification
        assert any("6 clients and groups" in step for step in checked.steps)


def test_a_bundle_that_states_something_else_about_a_client_is_refused(stolen, key, tmp_path):
    api, surrogate, path = stolen
    dm.trace(surrogate, owner=api, key=key, log=path, bundle=tmp_path / "bundle.zip", max_queries=200)

    def blame_alice(members):
        content = json.loads(members[bundles.TRACE])
        alice, bob, *others = content["clients"]
        alice["name"], bob["name"] = bob["name"], alice["name"]
        content["clients"] = [bob, alice, *others]
        members[bundles.TRACE] = json.dumps(content).encode()

    def give_alice_all_signs(members):
        with np.load(io.BytesIO(members[bundles.PARTIES])) as arrays:
            sizes, entries = arrays["sizes"], arrays["entries"]
        members[bundles.PARTIES] = npz(sizes=np.array([len(entries), 0, 0, 0]), entries=np.sort(entries))
        assert len(sizes) == 4

    def a_stronger_p_value(members):
        content = json.loads(members[bundles.TRACE])
        content["clients"][0]["log10_p"] = content["clients"][0]["adjusted_log10_p"] = -9.0
        members[bundles.TRACE] = json.dumps(content).encode()

    for forge in (blame_alice, give_alice_all_signs, a_stronger_p_value):
        rewritten(tmp_path / "bundle.zip", tmp_path / "forged.zip", key, forge)
        for known in (None, key):
            with pytest.raises(BundleError, match="client|parties"):
                recheck.recheck(tmp_path / "forged.zip", key=known)
        (tmp_path / "forged.zip").unlink()


def test_an_independent_model_names_nobody(stolen, key, digits):
    api, _, path = stolen
    independent = train_classifier(small_surrogate(), digits.x_train, digits.y_train, epochs=20, batch_size=32)
    found = dm.trace(independent, owner=api, key=key, log=path)
    assert found.detected(0.01) == ()


def test_what_is_no_whole_log_or_no_group_is_refused(stolen, key):
    api, surrogate, path = stolen
    with pytest.raises(ArgumentError, match="a selection of clients; a trace takes the whole log"):
        dm.trace(surrogate, owner=api, key=key, log=open_log(path, client="bob"))
    for group in (("bob",), ("bob", "eve"), CLIENTS * 2 + ("eve",)):
        with pytest.raises(ArgumentError, match=r"two to 4 clients of the log each: 'alice', 'bob'"):
            dm.trace(surrogate, owner=api, key=key, log=path, groups=[group])


def test_no_group_hides_a_client_of_its_name(stolen, key, tmp_path):
    api, surrogate, path = stolen
    with np.load(path) as log:
        names = np.where(log["client"] == "carol", "bob + dave", log["client"])
        np.savez(tmp_path / "log.npz", inputs=log["inputs"], client=names, time=log["time"])
    with pytest.raises(ArgumentError, match="A client is called 'bob \\+ dave', as this group would be"):
        dm.trace(surrogate, owner=api, key=key, log=tmp_path / "log.npz", groups=[("bob", "dave")])


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(log10_p):
    adjusted = holm(log10_p)
    for level in (-6, -2, -1.3):
        order = np.argsort(log10_p, kind="stable")
        rejected = set()
        for step, index in enumerate(order.tolist()):
            if log10_p[index] + np.log10(len(order) - step) > level:
                break
            rejected.add(index)
        assert {index for index, value in enumerate(adjusted) if value <= level} == rejected
