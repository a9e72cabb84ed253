"""The key: derivation against golden vectors, the key file, and that the secret is never shown."""

import copy
import json
import os
import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamarks_tf.errors import ArgumentError, FormatError, KeyFileError
from dynamarks_tf.keys.key import MarkKey
from tests.helpers import GOLDEN
from tests.helpers.files import mode, posix

VECTORS = json.loads((GOLDEN / "codebook_v1.json").read_text())["keys"]
SECRET = bytes(range(32))


@pytest.mark.parametrize("vector", VECTORS, ids=[v["owner"] for v in VECTORS])
def test_commitment_and_derivation_match_the_golden_vectors_of_an_independent_implementation(vector):
    key = MarkKey(bytes.fromhex(vector["secret_hex"]), vector["owner"])
    assert key.commitment == vector["commitment"]
    for label, expected in vector["derive"].items():
        assert key.derive(label, 48).hex() == expected


def test_generated_keys_differ_and_have_a_publishable_commitment():
    first, second = MarkKey.generate("ACME"), MarkKey.generate("ACME")
    assert first != second
    assert len(first.commitment) == 64
    assert set(first.commitment) <= set(string.hexdigits)
    assert first.key_id == first.commitment[:16]


def test_owner_is_bound_into_commitment_and_derivation():
    one, two = MarkKey(SECRET, "ACME"), MarkKey(SECRET, "ACME Ltd")
    assert one.commitment != two.commitment
    assert one.derive("label", 32) != two.derive("label", 32)
    assert one != two


def test_labels_give_independent_streams_and_longer_streams_extend_shorter_ones():
    key = MarkKey(SECRET, "ACME")
    assert key.derive("a", 64) != key.derive("b", 64)
    assert key.derive("a", 64)[:10] == key.derive("a", 10)


def test_equal_spellings_of_an_owner_are_one_owner():
    assert MarkKey(SECRET, "Ba\u0308ckerei ") == MarkKey(SECRET, "B\u00e4ckerei")


@pytest.mark.parametrize("owner", ["", "   ", None, 7, "two\nlines", "nul\0", "right\u202eleft"])
def test_owner_must_be_a_readable_name(owner):
    with pytest.raises(ArgumentError, match="`owner` must"):
        MarkKey.generate(owner)


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33), "text", None])
def test_secret_must_be_32_bytes_and_is_not_quoted_in_the_error(secret):
    with pytest.raises(ArgumentError, match="`secret` must be 32 random bytes") as caught:
        MarkKey(secret, "ACME")
    assert repr(bytes(31)) not in str(caught.value)


def test_save_and_load_give_the_same_key(tmp_path):
    key = MarkKey.generate("Bäckerei Äpfel GmbH")
    loaded = MarkKey.load(key.save(tmp_path / "a" / "acme.key"))
    assert loaded == key
    assert (loaded.owner, loaded.created, loaded.commitment) == (key.owner, key.created, key.commitment)


@posix
def test_key_file_is_private_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        MarkKey.generate("ACME").save(tmp_path / "acme.key")
    finally:
        os.umask(old)
    assert mode(tmp_path / "acme.key") == 0o600


def test_key_file_is_never_overwritten_silently(tmp_path):
    path = tmp_path / "acme.key"
    first, second = MarkKey.generate("ACME"), MarkKey.generate("ACME")
    first.save(path)
    with pytest.raises(KeyFileError, match=r"acme\.key exists, .*--force"):
        second.save(path)
    assert MarkKey.load(path) == first
    second.save(path, overwrite=True)
    assert MarkKey.load(path) == second
    assert [p.name for p in tmp_path.iterdir()] == ["acme.key"]


def test_interrupted_save_leaves_the_old_file_only(tmp_path, monkeypatch):
    path = tmp_path / "acme.key"
    first = MarkKey.generate("ACME")
    first.save(path)

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(KeyFileError, match="No space left"):
        MarkKey.generate("ACME").save(path, overwrite=True)
    assert MarkKey.load(path) == first
    assert [p.name for p in tmp_path.iterdir()] == ["acme.key"]


@posix
def test_a_key_file_that_others_can_read_is_named_in_a_warning(tmp_path):
    path = MarkKey.generate("ACME").save(tmp_path / "acme.key")
    path.chmod(0o644)
    with pytest.warns(UserWarning, match=r"acme\.key can be read by others \(mode 0644\)\. Run: chmod 600"):
        MarkKey.load(path)


def test_missing_key_file(tmp_path):
    with pytest.raises(KeyFileError, match=r"Cannot read the key file .*none\.key: No such file"):
        MarkKey.load(tmp_path / "none.key")


def _damaged(tmp_path, change):
    path = MarkKey.generate("ACME").save(tmp_path / "acme.key")
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_key_file(tmp_path, share):
    path = _damaged(tmp_path, lambda data: data[: int(len(data) * share)])
    with pytest.raises(KeyFileError, match="is truncated or not a key file"):
        MarkKey.load(path)


def _edited(**changes):
    def change(data):
        content = {**json.loads(data), **changes}
        return json.dumps({k: v for k, v in content.items() if v is not None}).encode()

    return change


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"version": 3}, FormatError, "version 3; this release reads version 1. Use the release"),
        ({"version": 2}, KeyFileError, "is encrypted. Give its passphrase"),
        ({"version": None}, FormatError, "version None"),
        ({"version": True}, FormatError, "version True"),
        ({"secret": "ä" * 44}, KeyFileError, "is damaged: an entry"),
        ({"format": "something"}, FormatError, "is not a key file"),
        ({"secret": None}, KeyFileError, "is damaged: an entry is missing or malformed"),
        ({"secret": "AAAA"}, KeyFileError, "is damaged: an entry"),
        ({"secret": "not base64!"}, KeyFileError, "is damaged: an entry"),
        ({"owner": "Somebody Else"}, KeyFileError, "do not give the commitment"),
        ({"secret": "A" * 43 + "="}, KeyFileError, "do not give the commitment"),
    ],
    ids=str,
)
def test_altered_key_file_is_refused(tmp_path, changes, error, message):
    path = _damaged(tmp_path, _edited(**changes))
    with pytest.raises(error, match=message):
        MarkKey.load(path)


def test_deeply_nested_json_and_binary_data_are_refused_without_quoting_the_file(tmp_path):
    for data in (b"[" * 100_000, b"\xff\xfe secret"):
        path = tmp_path / "bad.key"
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(KeyFileError, match="is truncated or not a key file") as caught:
            MarkKey.load(path)
        assert caught.value.__cause__ is None


def test_json_that_is_not_an_object_is_refused(tmp_path):
    (tmp_path / "list.key").write_text("[1, 2]")
    (tmp_path / "list.key").chmod(0o600)
    with pytest.raises(FormatError, match="is not a key file"):
        MarkKey.load(tmp_path / "list.key")


@given(st.binary(min_size=32, max_size=32))
def test_the_secret_is_not_shown(secret):
    key = MarkKey(secret, "ACME")
    import base64

    for shown in (repr(key), str(key), f"{key}", f"{[key]}"):
        assert secret.hex() not in shown
        assert base64.b64encode(secret).decode() not in shown
        assert key.key_id in shown


def test_a_key_is_not_pickled_and_copies_are_itself():
    key = MarkKey.generate("ACME")
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)
    with pytest.raises(TypeError, match="not pickled"):
        key.__getstate__()
    assert copy.copy(key) is key
    assert copy.deepcopy([key])[0] is key
    assert not hasattr(key, "__dict__")
