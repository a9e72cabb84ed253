"""`dynamarks trace`, and what `check` and reports say about its bundle."""

import json
import stat

import numpy as np
import pytest

from dynamarks_tf import recheck
from dynamarks_tf.case.client_table import MOST_SHOWN, client_lines
from dynamarks_tf.case.trace import ClientEvidence
from dynamarks_tf.foreign_text import quoted

GROUP = "bob + dave"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, stolen, key):
    folder = tmp_path_factory.mktemp("trace")
    api, surrogate, _ = stolen
    api.save(folder / "marked.keras")
    surrogate.save(folder / "suspect.keras")
    key.save(folder / "acme.key")
    return folder


@pytest.fixture
def words(folder, stolen):
    owner = ("--owner", folder / "marked.keras", "--key", folder / "acme.key")
    return ("trace", folder / "suspect.keras", *owner, "--log", stolen[2])


def rows(text):
    """The lines of the table: names, and whether they were found."""
    named = [line.split("'") for line in text.splitlines() if line.strip().startswith("'")]
    return {name: rest.endswith("  FOUND") for _, name, rest in named}


def test_the_clients_whose_answers_were_used_are_found_on_screen_in_bundle_and_report(run, words, folder, capsys):
    bundle, report = folder / "bundle.zip", folder / "report.html"
    written = ("--bundle", bundle, "--report", report, "--out", folder / "trace.json")
    code, out, err = run(*words, "--group", "bob,dave", "--alpha", 1e-3, *written)
    expected = {"alice": False, "bob": True, "carol": False, "dave": True, GROUP: True}
    assert code == 0
    assert out.startswith("FOUND: 3 of 5\n")
    assert rows(out) == expected
    assert "MARK FOUND, log10 p = " in out
    assert "It names clients and is not for publication." in err
    assert "bundle.zip is confidential" in err

    code, out, _ = run("check", bundle)
    assert code == 0
    assert rows(out) == expected
    code, out, _ = run("check", bundle, "--json", "--key", folder / "acme.key")
    clients = json.loads(out)["clients"]
    saved = json.loads((folder / "trace.json").read_text())
    assert saved["clients"] == clients
    assert saved["detected"][0] == GROUP
    assert stat.S_IMODE((folder / "trace.json").stat().st_mode) == 0o600

    assert recheck.main([str(bundle)]) == 0  # the same without click
    assert rows(capsys.readouterr().out) == expected

    for code, out, _ in (run("check", bundle, "--public"), run("check", bundle, "--public", "--json")):
        assert code == 0
        assert json.loads(out)["client_counts"] == {"tested": 5, "found": 3}
        assert not [name for name in expected if name in out]

    page = report.read_text()
    assert "<h2>Which client</h2>" in page
    assert all(f"<code>&#39;{name}&#39;</code>" in page for name in expected)
    assert "may be published" not in page
    assert len(json.loads((folder / "report.report.json").read_text())["clients"]) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in (report, folder / "report.report.json")} == {0o600}


def test_no_client_found_exits_with_1_and_json_is_all_of_the_output(run, words):
    code, out, _ = run(*words, "--json", "--alpha", 1e-300)
    assert code == 1
    content = json.loads(out)
    assert content["detected"] == []
    assert [client["name"] for client in content["clients"]] == ["alice", "bob", "carol", "dave"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--group", "bob,eve"), "(--group) takes two to 4 clients of the log each: 'alice', 'bob'"),
        (("--group", "bob"), "Received: 'bob'"),
        (("--client", "bob"), "No such option"),
        (("--log", "none.jsonl"), "none.jsonl"),
        (("--reveal-key",), "name its file by --bundle"),
        (("--alpha", "7"), "`alpha` is a probability"),
    ],
)
def test_wrong_arguments_exit_with_2_and_say_what_is_wrong(run, words, more, message):
    code, out, err = run(*words, *more)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_names_with_commas_make_groups_too(run, words, folder, stolen):
    with np.load(stolen[2]) as log:
        names = np.where(log["client"] == "bob", "Bob, Inc.", log["client"])
        np.savez(folder / "named.npz", inputs=log["inputs"], time=log["time"], client=names)
    words = (*words[:-1], folder / "named.npz", "--labels", "--alpha", 0.9999)
    _, out, _ = run(*words, "--group", r"Bob\, Inc.,dave")
    assert "Bob, Inc. + dave" in rows(out)


def test_hostile_names_neither_move_the_cursor_nor_look_alike():
    names = ["\x1b[2J\u202e\x9b", "a" * 41, "a" * 41 + "b", "\ud800", "\u0430lice", "alice"]
    shown = [quoted(name) for name in names]
    assert len({*shown}) == len(names)
    assert all(text.isascii() and text.isprintable() and len(text) < 80 for text in shown)


def test_a_log_of_many_clients_shows_the_strongest_and_counts_the_others():
    found = [ClientEvidence(f"c{number}", 9, (), -8.0 - number, -7.0 - number) for number in range(MOST_SHOWN + 2)]
    others = [ClientEvidence(f"n{number}", 9, (), -1.0, 0.0) for number in range(100_000)]
    clients = {client.name: client for client in [*others, *found]}
    lines = client_lines(clients, 1e-6)
    assert len(lines) == MOST_SHOWN + 2
    assert f"'c{MOST_SHOWN + 1}'" in lines[1]
    assert lines[-1].startswith("100,002 more, of which 2 found")
