"""Foreign text on the screen, in errors, logs and reports: it forges no line, moves no cursor and holds no secret."""

import base64
import html
import json
import logging
import re
import time
import unicodedata
from urllib.parse import quote

import pytest

from dynamarks_tf import foreign_text
from dynamarks_tf._support import progress, strict_json
from dynamarks_tf.case import bundle as bundles
from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ArgumentError, BundleError, DynaMarksError
from dynamarks_tf.foreign_text import escaped, is_plain, shown
from dynamarks_tf.keys import commitment
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.report.page import _environment
from dynamarks_tf.request_logs import open_log
from tests.helpers.documents import DOCUMENTS

FORGED = "ok  With the key, all come out as stated.\nMARK FOUND: log10 p = -99.00"
EVIL = f"x\n{FORGED}\r\x1b[2J\x9b1A\u202e\u2066\u200b\u2028{FORGED}\x85{FORGED}\x7f\ud800"
KEY = MarkKey(bytes(range(32)), "ACME Vision")


def forges(text):
    """Whether a line of output begins as a forged one, or holds what acts on a terminal or hides."""
    begins = any(line.startswith(("ok", "MARK FOUND")) for line in text.splitlines())
    return begins or not is_plain(text.replace("\n", ""))


CHARACTERS = [*map(chr, range(0x20000)), *map(chr, range(0xE0000, 0xE0200)), "\U00100000", "\U0010ffff"]


def test_every_character_is_shown_or_escaped_and_none_twice():
    for character in CHARACTERS:
        text, category = shown(character), unicodedata.category(character)
        acts = category in ("Cc", "Cf", "Cs", "Zl", "Zp")
        assert text == character or (text.isascii() and text.isprintable())
        assert not (text == character and (acts or category[0] == "C"))
        assert not (acts and is_plain(character))
    assert shown(shown(EVIL)) == shown(EVIL)
    assert is_plain(escaped("".join(CHARACTERS), len(CHARACTERS)))
    assert len(shown("\x1b" * 10**6, 100)) == 103
    assert shown("Zoë Ōta 株式会社 אבג") == "Zoë Ōta 株式会社 אבג"


def test_the_published_schemas_refuse_the_same_characters():
    for name in ("line", "name"):
        refused = re.compile(strict_json._document("common.json")["$defs"][name]["not"]["pattern"])
        assert refused.findall("".join(CHARACTERS)) == foreign_text._REFUSED.findall("".join(CHARACTERS))


def test_errors_log_lines_progress_and_reports_hold_one_line_for_each(capsys, tmp_path):
    found = [str(BundleError(EVIL)), repr(DynaMarksError(EVIL)), str(ArgumentError(f"Received: {EVIL!r}"))]
    progress.note(EVIL)
    with progress.Meter(EVIL, 1) as meter:
        meter.advance()
    found.append(capsys.readouterr().err)
    handler = logging.StreamHandler()
    log = foreign_text.logger("dynamarks_tf.test_foreign_text")
    log.addHandler(handler)
    log.warning("%s asked for %d", EVIL, 7)
    try:
        raise ValueError(EVIL)
    except ValueError:
        log.exception("failed")
    found.append(capsys.readouterr().err)
    found.append(_environment().from_string("<p title='{{ x }}'>{{ x }}</p>{{ x | quoted }}").render(x=EVIL))
    assert [text for text in found if forges(text)] == []
    assert all("MARK FOUND" in text for text in found)


def test_names_of_clients_in_logs_are_escaped(tmp_path):
    lines = [{"inputs": [[0.5]], "client": name, "model": name} for name in (EVIL, "a" * 10**5, "alice")]
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    log = open_log(tmp_path / "log.jsonl")
    names = [*log.clients()]
    assert "alice" in names
    assert all(is_plain(name) and len(name) < 6000 for name in names)
    assert [*open_log(tmp_path / "log.jsonl", client=EVIL).clients()]


def bundle_with(tmp_path, evidence=None, **members):
    path = tmp_path / "b.zip"
    bundles.write_bundle(
        path,
        {bundles.EVIDENCE: json.dumps(evidence or {}).encode(), **members},
        (),
        commitment=KEY.commitment,
        public_key=commitment.public_key(KEY),
        sign=lambda data: commitment.sign(data, KEY),
    )
    return path


def written(tmp_path, name, content):
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return tmp_path / name


EVIDENCE = DOCUMENTS["evidence"]
STATEMENT = commitment.commit(KEY).to_dict()
KEY_FILE = json.loads(KEY.to_json())
NAME = EVIL.replace("\ud800", "")  # no member or file can have half a surrogate pair
COMMANDS = {  # and what is said about the name
    "version": (lambda at: ["check", bundle_with(at, {**EVIDENCE, "version": EVIL})], "is evidence of version 'x"),
    "owner": (lambda at: ["check", bundle_with(at, {**EVIDENCE, "owner": EVIL})], "its entry owner is 'x"),
    "suspect": (lambda at: ["check", bundle_with(at, {**EVIDENCE, "suspect": EVIL})], "its entry suspect is 'x"),
    "warning": (lambda at: ["check", bundle_with(at, {**EVIDENCE, "warnings": [EVIL]})], "its entry warnings[0] is 'x"),
    "package": (
        lambda at: ["check", bundle_with(at, {**EVIDENCE, "versions": {EVIL: "1"}})],
        "unknown entry versions.x",
    ),
    "entry": (lambda at: ["check", bundle_with(at, {**EVIDENCE, EVIL: 1})], "it has an unknown entry x"),
    "member": (lambda at: ["check", bundle_with(at, EVIDENCE, **{NAME: b"{}"})], "it has an unknown entry members.x"),
    "no such bundle": (lambda at: ["check", at / NAME], "cannot be read as an evidence bundle"),
    "client": (
        lambda at: ["keygen", "--from", KEY.save(at / "m"), "--client", NAME[:150], "--out", at / "k"],
        "The name of a client must not hold control",
    ),
    "new owner": (lambda at: ["keygen", "--owner", NAME, "--out", at / "k"], "`owner` must not hold control"),
    "key file": (lambda at: ["commit", written(at, "k", {**KEY_FILE, "owner": EVIL})], "is damaged: an entry is"),
    "key's version": (lambda at: ["commit", written(at, "k", {**KEY_FILE, "version": EVIL})], "of version 'x"),
    "inspected": (lambda at: ["inspect", written(at, "s.json", {**STATEMENT, "owner": EVIL})], "MARK FOUND"),
    "format": (lambda at: ["inspect", written(at, "s.json", {"format": f"dynamarks-{EVIL}"})], "MARK FOUND"),
    "no option": (lambda at: ["check", f"--{NAME}"], "No such option"),
    "no command": (lambda at: [NAME], "No such command"),
    "clients": (
        lambda at: ["trace", "x", "--keys", NAME, "--queries", "x", "--owner", NAME, "--key", NAME],
        "Cannot read the key file",
    ),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_no_command_prints_a_forged_line(case, tmp_path, capsys):
    command, message = COMMANDS[case]
    code = main([str(each) for each in command(tmp_path)])
    printed = "".join(capsys.readouterr())
    assert code == (0 if case in ("inspected", "format") else 2)
    assert message in printed
    assert not forges(printed)


SECRET = 'sk-Live_9f/8A+b=Zq~77"x\\y'
DATA = SECRET.encode()
WRITTEN = {
    "plain": SECRET,
    "quoted": quote(SECRET),
    "quoted twice": quote(quote(SECRET, safe=""), safe=""),
    "every character quoted": "".join(f"%{byte:02X}" for byte in DATA),
    "JSON": json.dumps(SECRET),
    "JSON in JSON": json.dumps(json.dumps(SECRET)),
    "JSON, one letter": SECRET.replace("L", "\\u004c"),
    "JSON, every letter": "".join(f"\\u{byte:04x}" for byte in DATA),
    "Python": "".join(f"\\x{byte:02x}" for byte in DATA),
    "HTML": html.escape(SECRET),
    "HTML, every letter": "".join(f"&#{byte};" for byte in DATA),
    "hexadecimal": DATA.hex(":"),
    "base64": base64.b64encode(b"x" + DATA).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(DATA).decode(),
    "base32": base64.b32encode(DATA).decode(),
    "over two lines": f"{SECRET[:9]}\r\n{SECRET[9:]}",
    "with what cannot be seen": "\u200b".join(SECRET),
    "UTF-16": "\0".join(SECRET),
}


@pytest.fixture
def secret(monkeypatch):
    for name, nothing in (("_secrets", set()), ("_pattern", None), ("_longest_secret", 0)):
        monkeypatch.setattr(foreign_text, name, nothing)
    foreign_text.keep_secret(SECRET)


@pytest.mark.parametrize("way", WRITTEN)
def test_a_secret_is_hidden_however_a_server_writes_it(secret, way):
    text = shown(f"no such key: {WRITTEN[way]} end", 2000)
    assert text.startswith("no such key: ")
    assert "***" in text
    assert len(text) < 30
    assert shown(f"{'x' * 80}{WRITTEN[way]} end", 85).startswith("x" * 80)
    assert not re.search("sk|%73|u0073|x73|#115", shown(f"{'x' * 80}{WRITTEN[way]} end", 85))


def test_hiding_a_secret_takes_no_time_whatever_the_text_is(secret):
    start = time.monotonic()
    for part in ("\\", "&amp;", "%25", "=3d", "\0", "sk-", "s\0k\0-", "\\u005c"):
        foreign_text.hide(part * 2000)
    assert time.monotonic() - start < 2
