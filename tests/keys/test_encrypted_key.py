"""Key files under a passphrase: read with it alone, refused when altered, and never shown."""

import base64
import getpass
import json
import sys
import time
import traceback

import pytest

from dynamarks_tf import recheck
from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ArgumentError, FormatError, KeyFileError
from dynamarks_tf.keys import passphrases
from dynamarks_tf.keys.key import MarkKey
from tests.helpers.files import mode, posix

SECRET = bytes(range(32))
KEY = MarkKey(SECRET, "Bäckerei Äpfel", created="2026-01-01T00:00:00+00:00")
PASSPHRASE = "correct horse bättery"


@pytest.fixture(scope="module")
def content():
    """The content of an encrypted file, with the least cost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passphrases, "COST", passphrases.COSTS[0])
        return json.loads(KEY.to_json(PASSPHRASE))


def loaded(content, passphrase=PASSPHRASE):
    return MarkKey.from_json(json.dumps(content).encode(), "acme.key", passphrase=passphrase)


@posix
def test_the_passphrase_and_nothing_else_opens_an_encrypted_file(content, tmp_path, monkeypatch):
    assert passphrases.COST == 2**17
    monkeypatch.setattr(passphrases, "COST", passphrases.COSTS[0])
    path = KEY.save(tmp_path / "acme.key", passphrase=PASSPHRASE)
    assert mode(path) == 0o600
    for shown in (base64.b64encode(SECRET), SECRET, PASSPHRASE.encode()):
        assert shown not in path.read_bytes()
    with pytest.raises(KeyFileError, match=r"acme\.key is encrypted\. Give its passphrase: MarkKey\.load"):
        MarkKey.load(path)
    opened = MarkKey.load(path, passphrase="correct horse ba\u0308ttery")  # the same letters
    assert (opened, opened.created) == (KEY, KEY.created)
    with pytest.raises(KeyFileError, match="the passphrase is another, or the file was altered"):
        loaded(content, "correct horse battery")
    with pytest.raises(ArgumentError, match="must be a text. Received: bytes"):
        loaded(content, PASSPHRASE.encode())
    assert MarkKey.from_json(KEY.to_json(), "plain", passphrase="not needed") == KEY


def test_two_files_of_one_key_and_passphrase_have_nothing_in_common(content, monkeypatch):
    monkeypatch.setattr(passphrases, "COST", passphrases.COSTS[0])
    again = json.loads(KEY.to_json(PASSPHRASE))["encrypted_secret"]
    assert all(again[name] != content["encrypted_secret"][name] for name in ("salt", "nonce", "data"))


@pytest.mark.parametrize("name", ["owner", "created", "key_id", "commitment"])
def test_what_stands_in_the_clear_is_bound_to_the_secret(content, name):
    with pytest.raises(KeyFileError, match="or the file was altered"):
        loaded({**content, name: content[name][:-1] + "x"})


@pytest.mark.parametrize(
    "change",
    [
        {"n": 2**40},
        {"n": 2**13},
        {"n": 3 * 2**14},
        {"n": True},
        {"n": "16384"},
        {"r": 2**20},
        {"p": 2**20},
        {"kdf": "none"},
        {"cipher": "none"},
        {"salt": ""},
        {"salt": 7},
        {"nonce": "AAAA"},
        {"data": "A" * 1028},
        {"data": None},
        {"more": 1},
    ],
    ids=str,
)
def test_parameters_of_a_file_are_bounded_before_they_cost_anything(content, change):
    started = time.monotonic()
    with pytest.raises(KeyFileError, match="is damaged: its encrypted secret is not one of scrypt"):
        loaded({**content, "encrypted_secret": {**content["encrypted_secret"], **change}})
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("value", [None, [], "x", 7, {}])
def test_other_things_in_place_of_the_encrypted_secret(content, value):
    with pytest.raises(KeyFileError, match="is damaged"):
        loaded({**content, "encrypted_secret": value})
    with pytest.raises(FormatError, match="version 3"):
        loaded({**content, "version": 3})


@pytest.mark.parametrize("passphrase", ["", "short", "x" * 1025, None])
def test_weak_passphrases_are_refused_and_not_quoted(passphrase):
    with pytest.raises(ArgumentError, match="must have 12 to 1024 characters") as caught:
        passphrases.check(passphrase)
    assert "short" not in str(caught.value)


@pytest.fixture
def cheap(monkeypatch):
    monkeypatch.setattr(passphrases, "COST", passphrases.COSTS[0])
    monkeypatch.delenv(passphrases.VARIABLE, raising=False)


@pytest.fixture
def named(tmp_path, monkeypatch):
    """A file with the passphrase, which the environment names."""
    path = tmp_path / "passphrase"
    path.write_text(f"{PASSPHRASE}\nsecond line\n")
    path.chmod(0o600)
    monkeypatch.setenv(passphrases.VARIABLE, str(path))
    return path


def typed(monkeypatch, *answers):
    """Somebody at a terminal."""
    waiting = iter(answers)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(getpass, "getpass", lambda _: next(waiting))


@posix
def test_commands_read_encrypted_files_by_the_file_that_the_environment_names(cheap, named, tmp_path, capsys):
    path, statement = str(tmp_path / "acme.key"), str(tmp_path / "s.json")
    assert main(["keygen", "--owner", "ACME", "--out", path, "--encrypt"]) == 0
    assert main(["keygen", "--from", path, "--client", "bob", "--out", str(tmp_path / "bob.key")]) == 0
    assert main(["commit", path, "--out", statement]) == 0
    assert main(["check", "none.zip", "--key", path]) == 2  # it got past the key
    assert "none.zip" in capsys.readouterr().err
    assert recheck.main(["none.zip", "--key", path]) == 2
    assert "none.zip" in capsys.readouterr().err
    named.chmod(0o640)
    assert main(["commit", path]) == 2
    assert "Others can read the passphrase file" in capsys.readouterr().err
    named.write_bytes(b"")
    named.chmod(0o600)
    assert main(["commit", path]) == 2
    assert "whose first line is the passphrase" in capsys.readouterr().err


def test_a_file_is_encrypted_in_place_its_passphrase_changed_and_removed(cheap, tmp_path, monkeypatch, capsys):
    path = KEY.save(tmp_path / "acme.key")
    assert main(["key", "encrypt", str(path)]) == 2
    assert "Nobody can be asked for a new passphrase" in capsys.readouterr().err
    typed(monkeypatch, PASSPHRASE, "another one that differs")
    assert main(["key", "encrypt", str(path)]) == 2
    assert MarkKey.load(path) == KEY
    typed(monkeypatch, PASSPHRASE, PASSPHRASE)
    assert main(["key", "encrypt", str(path)]) == 0
    typed(monkeypatch, PASSPHRASE, "a newer passphrase", "a newer passphrase")
    assert main(["key", "encrypt", str(path)]) == 0
    typed(monkeypatch, PASSPHRASE)
    assert main(["key", "decrypt", str(path)]) == 2
    capsys.readouterr()
    assert main(["inspect", str(path)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["encrypted"], shown["commitment"]) == (True, KEY.commitment)
    typed(monkeypatch, "a newer passphrase")
    assert main(["key", "decrypt", str(path)]) == 0
    assert MarkKey.load(path) == KEY
    assert PASSPHRASE not in "".join(capsys.readouterr())


def test_without_terminal_and_environment_the_error_says_both_ways(cheap, content, tmp_path, capsys):
    (tmp_path / "acme.key").write_text(json.dumps(content))
    (tmp_path / "acme.key").chmod(0o600)
    assert main(["commit", str(tmp_path / "acme.key")]) == 2
    err = capsys.readouterr().err
    assert "at a terminal, or put the passphrase into a file and the file's path into DYNAMARKS_PASSPHRASE_FILE" in err


def test_no_traceback_holds_passphrase_or_secret(content):
    wrong = "wrong passphrase " + "hunter2"
    for change in ({}, {"data": base64.b64encode(bytes(48)).decode()}):
        with pytest.raises(KeyFileError) as caught:
            loaded({**content, "encrypted_secret": {**content["encrypted_secret"], **change}}, wrong)
        text = "".join(traceback.format_exception(caught.value))
        assert "hunter2" not in text
        assert (caught.value.__cause__, content["encrypted_secret"]["data"] in text) == (None, False)
