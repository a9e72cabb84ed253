"""Keys per client on the command line: derive, commit, mark, verify, trace, check."""

import json
import stat

import keras
import numpy as np
import pytest

import dynamarks_tf as dm

CLIENTS = ("client-7", "Müller, GmbH", "client-9")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, owner_model, key, digits):
    folder = tmp_path_factory.mktemp("keys")
    owner_model.save(folder / "clean.keras")
    dm.mark(owner_model, key.for_client("client-7"), 0.1, amplitudes=False).save(folder / "served.keras")
    key.save(folder / "acme.key")
    np.save(folder / "x.npy", digits.x_test[:100])
    (folder / "clients.txt").write_text("\ufeff" + "\n\n".join(CLIENTS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def words(folder):
    asked = ("--owner", folder / "served.keras", "--key", folder / "acme.key", "--queries", folder / "x.npy")
    return ("trace", folder / "served.keras", *asked)


def test_a_key_of_a_client_is_derived_committed_to_and_marked_with(run, folder, key):
    derived = key.for_client("client-7")
    made = folder / "client-7.key"
    code, out, _ = run("keygen", "--from", folder / "acme.key", "--client", "client-7", "--out", made, "--json")
    assert (code, json.loads(out)["commitment"], json.loads(out)["client"]) == (0, derived.commitment, "client-7")
    assert dm.MarkKey.load(made) == derived
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert "client-7" in run("inspect", made, "--json")[1]
    assert "client" not in json.loads(run("inspect", folder / "acme.key", "--json")[1])

    code, out, _ = run("commit", folder / "acme.key", "--client", "client-7")
    assert (code, json.loads(out)["commitment"]) == (0, derived.commitment)

    marked = folder / "marked.keras"
    code, out, _ = run(
        "mark", folder / "clean.keras", "--key", folder / "acme.key", "--client", "client-7", "--out", marked
    )
    assert code == 0
    assert out.endswith(f"with key {derived.key_id} of the client 'client-7', budget 0.05\n")
    assert dm.find_mark(keras.models.load_model(marked)).key_id == derived.key_id


def test_verify_and_check_take_the_key_of_a_client(run, words, folder, tmp_path):
    bundle = tmp_path / "bundle.zip"
    of_client = ("--key-of", "client-7", "--bundle", bundle)
    assert run("verify", *words[1:], *of_client)[0] == 0
    assert run("verify", *words[1:], "--key-of", "client-9")[0] == 2  # the model was marked with another key
    checked = ("check", bundle, "--key", folder / "acme.key")
    assert run(*checked, "--key-of", "client-7")[0] == 0
    assert run(*checked)[0] == 2


def test_a_trace_names_the_client_on_screen_in_bundle_and_report(run, words, folder, tmp_path):
    bundle, report = tmp_path / "bundle.zip", tmp_path / "report.html"
    written = ("--bundle", bundle, "--report", report, "--out", tmp_path / "trace.json")
    code, out, _ = run(*words, "--keys", folder / "clients.txt", *written)
    assert code == 0
    assert out.startswith("FOUND: 1 of 3\n")
    assert "  master key  mark not found, log10 p = " in out
    assert "'client-7' " in out
    assert "'M\\xfcller, GmbH'" in out
    assert out.count("  FOUND") == 2  # one client, and what FOUND means
    assert json.loads((tmp_path / "trace.json").read_text())["detected"] == ["client-7"]
    page = report.read_text()
    assert "<h1>The mark of ACME Vision was detected in the suspect, with the keys of 1 of 3 clients.</h1>" in page
    assert "Each client was served a model marked with its own key" in page
    assert "exclusive" not in page
    assert "may be published" not in page
    for more in ((), ("--key", folder / "acme.key")):
        code, out, _ = run("check", bundle, *more)
        assert code == 0
        assert "\nmaster key: mark not found: log10 p = " in out
        assert "\n'client-7' " in out
    secret = ("--key", folder / "acme.key", "--report", tmp_path / "secret.html", "--confidential")
    code, _, err = run("check", bundle, *secret)
    assert (code, "There is no sign table to show" in err) == (2, True)
    code, out, _ = run("check", bundle, "--public")
    assert json.loads(out)["client_counts"] == {"tested": 3, "found": 1}
    assert "client-7" not in out


def test_names_with_commas_between_them_are_clients_and_none_found_exits_with_1(run, words, tmp_path, folder):
    named = ("--owner", folder / "clean.keras", "--keys", r"client-9,Müller\, GmbH")
    code, out, _ = run(*words, *named, "--report", tmp_path / "report.html")
    assert code == 1
    assert out.startswith("not found: 0 of 2\n")
    assert "was not detected in the suspect with any key of 2 clients." in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--keys", "a", "--log", "logs"), "either the whole log by --log, or the clients' names by --keys"),
        ((), "either the whole log by --log, or the clients' names by --keys"),
        (("--log", "logs"), "--keys is tested with fresh inputs by --queries"),
        (("--keys", "a", "--group", "a,b"), "--group is about clients of a log"),
        (("--keys", "a", "--report", "r.html", "--confidential"), "shows the sign table of one key"),
        (("--keys", "a,a"), "(--keys) must name each client once"),
        (("--keys", "a,,b"), "non-empty text"),
        (("--keys", "acme.key"), "holds no clients' names, one a line. The key file is given by --key."),
        (("--keys", "empty.txt"), "holds no clients' names"),
        (("--keys", "x.npy"), "cannot be read as text"),
        (("--keys", "client-9"), "marked with another key"),
    ],
)
def test_wrong_arguments_exit_with_2_and_say_what_is_wrong(run, words, folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    (folder / "empty.txt").write_text("\n \n")
    code, out, err = run(*words, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert "AAECAwQFBgc" not in err  # the secret of the key


@pytest.mark.parametrize(
    "arguments",
    [(), ("--owner", "A", "--client", "b"), ("--from", "acme.key"), ("--from", "k", "--client", "b", "--owner", "A")],
)
def test_keygen_makes_either_a_new_key_or_that_of_a_client(run, arguments, tmp_path):
    code, _, err = run("keygen", *arguments, "--out", tmp_path / "new.key")
    assert code == 2
    assert "either --owner, for a new key, or --from and --client" in err
    assert not (tmp_path / "new.key").exists()
