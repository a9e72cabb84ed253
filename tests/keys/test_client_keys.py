"""Keys of clients: derived from the master key by name, always the same, and no way back."""

import copy
import json
import pickle

import pytest

from dynamarks_tf.case.key_trace import client_keys_sha256
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.keys.client_keys import MOST_CLIENTS, client_keys
from dynamarks_tf.keys.commitment import commit
from dynamarks_tf.keys.key import MarkKey
from tests.helpers import GOLDEN, reference

VECTORS = json.loads((GOLDEN / "client_keys_v1.json").read_text())["keys"]
MASTER = MarkKey(bytes(range(32)), "ACME Vision")


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["owner"] for vector in VECTORS])
def test_derivation_matches_the_golden_vectors_of_an_independent_implementation(vector):
    secret = bytes.fromhex(vector["secret_hex"])
    master = bytes.fromhex(vector["master_hex"])
    assert reference.stream(master, vector["owner"], f"client-key/{vector['client']}", 32) == secret
    derived = MarkKey(master, vector["owner"]).for_client(vector["client"])
    assert derived == MarkKey(secret, vector["owner"])
    assert (derived.owner, derived.client, derived.commitment) == tuple(
        vector[name] for name in ("owner", "client", "commitment")
    )


def test_a_name_gives_one_key_and_other_names_and_masters_give_others():
    key = MASTER.for_client("client-7")
    assert key == MASTER.for_client(" client-7\n".strip()) == MASTER.for_client("client-7 ")
    others = (MASTER, MASTER.for_client("client-70"), MarkKey(bytes(32), "ACME Vision").for_client("client-7"))
    assert len({each.commitment for each in (key, *others)}) == 4
    with pytest.raises(
        ArgumentError, match="key of the client 'client-7', and client keys are derived from the master"
    ):
        key.for_client("client-8")


def test_a_saved_key_of_a_client_is_a_whole_key_that_still_derives_no_other(tmp_path):
    key = MASTER.for_client("Segment é")
    loaded = MarkKey.load(key.save(tmp_path / "client.key"))
    assert (loaded, loaded.client, loaded.commitment) == (key, "Segment é", key.commitment)
    assert MASTER.commitment not in (tmp_path / "client.key").read_text()
    with pytest.raises(ArgumentError, match="Use the owner's master key"):
        loaded.for_client("other")
    commit(key).check_opened_by(loaded)


def test_the_secret_of_a_client_is_not_shown_pickled_or_copied():
    key = MASTER.for_client("client-7")
    assert VECTORS[0]["secret_hex"] not in repr(key) + str(key)
    assert repr(key) == f"<MarkKey {key.key_id} owner='ACME Vision' client='client-7'>"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)
    assert copy.deepcopy(key) is key


@pytest.mark.parametrize("name", ["", "  ", None, 7, "a\nb", "right\u202eleft", "\ud800", "x" * 201])
def test_a_client_needs_a_readable_name(name):
    with pytest.raises(ArgumentError, match="The name of a client must") as caught:
        MASTER.for_client(name)
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "from 1 to 100,000 clients. Received: 0"),
        (["a"] * (MOST_CLIENTS + 1), "Received: 100,001"),
        (["a", "b", "a "], "each client once. Received twice: 'a'"),
        ("a,b", "must be a list of clients' names. Received: str"),
        (["a", ""], "non-empty text"),
    ],
)
def test_a_list_of_clients_names_each_once(names, message):
    with pytest.raises(ArgumentError, match=message):
        client_keys(MASTER, names)


def test_the_digest_of_the_list_depends_on_names_keys_and_order():
    keys = client_keys(MASTER, ["a", "b"])
    digests = {
        client_keys_sha256({name: key.commitment for name, key in listed})
        for listed in (keys.items(), [*keys.items()][::-1], [("a", keys["b"]), ("b", keys["a"])])
    }
    assert len(digests) == 3
