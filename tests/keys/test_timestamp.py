"""Timestamps of statements: asked for, kept beside them, verified offline, and refused when they do not fit."""

import json
import subprocess
import time

import pytest

from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ArgumentError, CommitmentError
from dynamarks_tf.keys import timestamp, timestamp_authority
from dynamarks_tf.keys.commitment import Statement, commit
from dynamarks_tf.keys.key import MarkKey
from tests.helpers.time_stamping import TimeStampingAuthority, http, needs_openssl, serving

KEY = MarkKey(bytes(range(32)), "Bäckerei Äpfel")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return TimeStampingAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory):
    return TimeStampingAuthority(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def dated(authority):
    """A statement with a timestamp."""
    statement = commit(KEY, date="2026-01-01")
    return statement.with_timestamp(authority.reply(statement.timestamp_request()), "reply")


@needs_openssl
def test_commit_obtains_a_timestamp_that_proves_the_date_and_that_openssl_confirms(authority, tmp_path, capsys):
    KEY.save(tmp_path / "acme.key")
    path = tmp_path / "statement.json"
    with serving(lambda request, _: http(authority.reply(request))) as (url, seen):
        assert main(["commit", str(tmp_path / "acme.key"), "--out", str(path), "--timestamp", url]) == 0
    assert seen[0]["Content-Type"] == "application/timestamp-query"
    capsys.readouterr()
    assert main(["timestamp", str(path), "--roots", str(authority.roots), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert (shown["moment"][:10], shown["authority"], shown["obstacle"]) == (today, "CN=Clock & Sons", None)
    files = ["-data", path, "-in", f"{path}.tsr", "-CAfile", authority.roots]
    assert b"Verification: OK" in subprocess.run(["openssl", "ts", "-verify", *files], capture_output=True).stdout
    # a failed attempt to date it again leaves it as it is
    assert main(["timestamp", str(path), "--url", "http://127.0.0.1:9/"]) == 2
    assert "has a timestamp already" in capsys.readouterr().err


@needs_openssl
def test_a_timestamp_is_obtained_offline(authority, other_authority, tmp_path, capsys):
    KEY.save(tmp_path / "acme.key")
    path, request, reply = (str(tmp_path / name) for name in ("s.json", "r.tsq", "r.tsr"))
    assert main(["commit", str(tmp_path / "acme.key"), "--out", path, "--timestamp-request", request]) == 0
    assert "send it to a time-stamping authority" in capsys.readouterr().err
    (tmp_path / "r.tsr").write_bytes(authority.reply((tmp_path / "r.tsq").read_bytes()))
    add = ["timestamp", path, "--reply", reply]
    assert main([*add, "--roots", str(other_authority.roots)]) == 2
    assert "not signed by an authority that the given roots trust" in capsys.readouterr().err
    assert main(["timestamp", path]) == 2  # nothing was kept
    assert "has no timestamp. Ask for one" in capsys.readouterr().err
    assert main(add) == 0
    assert "is there, not verified: no roots" in capsys.readouterr().out
    assert main([*add, "--roots", str(authority.roots)]) == 2
    assert "a timestamp is not overwritten, since the older one proves more" in capsys.readouterr().err
    loaded = Statement.load(path)
    assert loaded.proven_date(timestamp.load_roots(authority.roots)).is_verified
    loaded.save(tmp_path / "copy.json")
    assert Statement.load(tmp_path / "copy.json") == loaded


@needs_openssl
def test_a_timestamp_of_another_statement_is_refused_where_it_is_read(dated, tmp_path):
    commit(KEY, date="2020-01-01").save(tmp_path / "s.json")
    timestamp.save_reply(tmp_path / "s.json", dated.timestamp)
    with pytest.raises(CommitmentError, match=r"s\.json\.tsr is a timestamp of something else than the statement"):
        Statement.load(tmp_path / "s.json")


@needs_openssl
def test_every_altered_byte_is_refused_or_changes_nothing(dated, authority):
    """Bytes of the name of the signature's algorithm do not count; time and digest always do."""
    roots = timestamp.load_roots(authority.roots)
    true = dated.proven_date(roots)

    def outcome(place):
        altered = bytearray(dated.timestamp)
        altered[place] ^= 0x15
        try:
            return timestamp.date_of(dated.to_bytes(), bytes(altered), "reply", roots)
        except CommitmentError:
            return None

    outcomes = [outcome(place) for place in range(0, len(dated.timestamp), 3)]
    assert {*outcomes} <= {None, true}
    assert outcomes.count(true) <= 4
    for damaged in (b"", dated.timestamp[:-1], dated.timestamp + b"x", b"\x30\x80" * 30_000, bytes(2**16 + 1)):
        with pytest.raises(CommitmentError, match="reply is not a timestamp"):
            timestamp.date_of(dated.to_bytes(), damaged, "reply", roots)


@needs_openssl
def test_without_the_reader_a_timestamp_is_there_but_unread(dated, authority, monkeypatch):
    roots = timestamp.load_roots(authority.roots)
    monkeypatch.setitem(__import__("sys").modules, "rfc3161_client", None)
    assert "is there, not verified: rfc3161-client is not installed here" in dated.proven_date().in_words()
    with pytest.raises(CommitmentError, match="only with rfc3161-client: pip install"):
        dated.proven_date(roots)


def test_roots_without_a_timestamp_are_an_error_not_a_pass(tmp_path):
    with pytest.raises(CommitmentError, match="the statement has no timestamp"):
        commit(KEY).proven_date([])
    for content in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", bytes(2**21 + 1)):
        (tmp_path / "roots.pem").write_bytes(content)
        with pytest.raises(CommitmentError, match=r"does not hold root certificates|It is larger than"):
            timestamp.load_roots(tmp_path / "roots.pem")


def trickle(_, out):
    out.write(http(b"")[:20])
    for _ in range(30):
        time.sleep(0.05)
        out.write(b"x")
    return b""


FORGED = "ok MARK FOUND"
REFUSED = bytes.fromhex("30053003020102")  # status 2, rejection


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda *_: http(bytes(2**16 + 1)), "sends more than 65536 bytes"),
        (lambda *_: http(b"", "302 Found", "Location: http://127.0.0.1:9/"), "status 302.* Redirects are not followed"),
        (lambda *_: http(FORGED.encode(), f"500 {FORGED}"), "HTTP status 500"),
        (lambda *_: f"{FORGED}\r\n\r\n".encode(), "cannot be asked"),
        (lambda *_: http(FORGED.encode()), "The reply is not a timestamp"),
        (lambda *_: http(REFUSED), "did not grant a timestamp, its status is REJECTION"),
        (trickle, "within 0.3 s"),
    ],
    ids=["large", "redirect", "error", "no HTTP", "nonsense", "refusal", "slow"],
)
def test_a_hostile_authority_gets_nowhere(answer, message, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    with serving(answer) as (url, seen), pytest.raises(CommitmentError, match=message) as caught:
        commit(KEY).timestamped(url, timeout_s=0.3)
    assert FORGED not in str(caught.value)
    assert "Authorization" not in seen[0]


@pytest.mark.parametrize("url", ["ftp://a/", "http://", "http://me:hunter2@a/", "http://a:x/", "http://a/\n", "a"])
def test_addresses_of_authorities(url):
    with pytest.raises(ArgumentError, match="must be http://HOST/PATH") as caught:
        timestamp_authority.ask(b"", url)
    assert "hunter2" not in str(caught.value)
