"""The command line: whole stories through `main([...])`, exit codes, and errors a user can act on."""

import importlib
import json
import stat
import sys
import threading

import numpy as np
import pytest

from dynamarks_tf.keys.key import MarkKey


@pytest.fixture
def folder(tmp_path, owner_model, surrogate, unmarked_surrogate, digits, key):
    owner_model.save(tmp_path / "owner.keras")
    surrogate.save(tmp_path / "surrogate.keras")
    unmarked_surrogate.save(tmp_path / "independent.keras")
    np.save(tmp_path / "x.npy", digits.x_test)
    key.save(tmp_path / "acme.key")
    return tmp_path


def test_keygen_writes_a_private_key_and_shows_only_the_commitment(run, tmp_path):
    path = tmp_path / "acme.key"
    code, out, _ = run("keygen", "--owner", "ACME Vision", "--out", path)
    assert code == 0
    key = MarkKey.load(path)
    assert key.commitment in out
    assert json.loads(path.read_text())["secret"] not in out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    code, _, err = run("keygen", "--owner", "Other", "--out", path)
    assert (code, MarkKey.load(path)) == (2, key)
    assert "--force" in err
    assert run("keygen", "--owner", "Other", "--out", path, "--force")[0] == 0
    assert MarkKey.load(path).owner == "Other"


def test_commit_prints_a_publishable_statement(run, folder, key):
    code, out, _ = run("commit", folder / "acme.key", "--out", folder / "statement.json")
    assert code == 0
    statement = json.loads(out)
    assert statement == json.loads((folder / "statement.json").read_text())
    assert statement["commitment"] == key.commitment
    assert statement["owner"] == "ACME Vision"
    assert not {"secret"} & statement.keys()
    code, _, err = run("commit", folder / "acme.key", "--out", folder / "statement.json")
    assert code == 2
    assert "a statement is not overwritten" in err


def test_verify_asks_what_a_client_asked_according_to_the_log(run, folder, digits, marked_model):
    from dynamarks_tf.serving.local_server import LocalServer
    from dynamarks_tf.suspects import as_suspect

    run("export", folder / "owner.keras", folder / "served" / "clf")
    with LocalServer(folder / "served" / "clf", grpc_port=0, rest_port=None, request_log=folder / "logs") as server:
        api = as_suspect(server.grpc_url)
        for start in range(0, 600, 50):
            api.predict(digits.x_train[start : start + 50])
        api.close()
    marked_model.save(folder / "marked.keras")
    words = ("verify", folder / "surrogate.keras", "--owner", folder / "marked.keras", "--key", folder / "acme.key")
    code, out, _ = run(*words, "--log", folder / "logs", "--queries", folder / "x.npy", "--json")
    assert code == 0
    plan = json.loads(out)["plan"]
    assert plan["log"]["num_queries"] == 600
    assert plan["num_fresh"] == 40
    assert 500 < plan["num_queries"] - 40 <= 600  # those that met a secret sign first
    code, out, err = run(*words, "--log", folder / "logs", "--queries", folder / "x.npy", "--sequential")
    assert code == 0
    assert "questions, log10 p =" in err
    assert " fresh of " in out
    assert "planned; enough" in out
    code, _, err = run(*words, "--log", folder / "logs", "--client", "nobody")
    assert code == 2
    assert "nobody" in err or "holds no inputs" in err
    for wrong, message in (
        ((), "Give the inputs to ask by --queries, --pool, --log, or --log and --queries."),
        (("--queries", folder / "x.npy", "--log", folder / "logs", "--logged"), "beside --log, these are fresh"),
        (("--queries", folder / "x.npy", "--extend", "case.zip"), "--extend goes on with a sequential test"),
        (("--queries", folder / "x.npy", "--client", "a"), "--client chooses from request logs"),
        (("--queries", folder / "x.npy", "--log-version", "0"), "--log-version chooses from request logs"),
        (("--queries", folder / "x.npy", "--log-model", "clf"), "--log-model chooses from request logs"),
    ):
        code, _, err = run(*words, *wrong)
        assert code == 2
        assert message in err
    code, _, err = run(*words, "--log", "s4://AKIA:pass/word@bucket/logs?sig=t0ken")
    assert code == 2
    assert "Cannot read s4://***@bucket/logs?...: the protocol s4:// is unknown" in err
    assert not any(secret in err for secret in ("AKIA", "word@", "t0ken"))


def test_verify_takes_one_version_of_a_log_that_holds_several(run, folder, digits, marked_model):
    """A key was rotated: clients were answered by version 1, marked with the key, then by version 2."""
    from dynamarks_tf.serving.local_server import LocalServer
    from dynamarks_tf.suspects import as_suspect

    for version in (1, 2):
        run("export", folder / "owner.keras", folder / "served" / "clf", "--version", version)
        with LocalServer(folder / "served" / "clf", grpc_port=0, rest_port=None, request_log=folder / "logs") as server:
            api = as_suspect(server.grpc_url)
            for start in range(0, 100 * version, 50):
                api.predict(digits.x_train[start : start + 50])
            api.close()
    marked_model.save(folder / "marked.keras")
    words = ("verify", folder / "surrogate.keras", "--owner", folder / "marked.keras", "--key", folder / "acme.key")
    words = (*words, "--log", folder / "logs", "--json")
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "'clf', version 1: 2 requests, 'clf', version 2: 4 requests" in err
    assert "--log-version N" in err
    for versions, count in (((1,), 100), ((2,), 200), ((1, 2), 300)):
        chosen = [word for version in versions for word in ("--log-version", version)]
        code, out, _ = run(*words, "--log-model", "clf", *chosen)
        assert code in (0, 1)
        plan = json.loads(out)["plan"]
        assert (plan["log"]["num_queries"], plan["log"]["versions"]) == (300, list(versions))
        assert count / 2 - 5 < plan["num_queries"] <= count
    code, _, err = run(*words, "--log-version", 3)
    assert code == 2
    assert "answered by version 3" in err


def test_verify_writes_a_bundle_that_check_recomputes(run, folder, key):
    words = ("verify", folder / "surrogate.keras", "--owner", folder / "owner.keras", "--queries", folder / "x.npy")
    words = (*words, "--key", folder / "acme.key", "--bundle", folder / "bundle.zip")
    code, out, err = run(*words)
    assert code == 0
    assert "were enough" in out
    assert "amplitude   not tested: it needs logged queries" in out
    assert "bundle.zip is confidential" in err
    assert err.index("plan fixed: sha256 ") < err.index("asking the suspect")
    assert stat.S_IMODE((folder / "bundle.zip").stat().st_mode) == 0o600
    assert run(*words)[0] == 2

    code, out, _ = run("check", folder / "bundle.zip")
    assert code == 0
    assert "can be checked with the key only" in out
    assert "MARK FOUND" in out
    code, out, _ = run("check", folder / "bundle.zip", "--key", folder / "acme.key")
    assert code == 0
    assert "With the key, signs, statistics and p-values come out as stated" in out
    code, out, _ = run("check", folder / "bundle.zip", "--public")
    assert json.loads(out)["key_id"] == key.key_id
    data = bytearray((folder / "bundle.zip").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "bundle.zip").write_bytes(data)
    code, _, err = run("check", folder / "bundle.zip")
    assert code == 2
    assert "was changed" in err


def test_a_mark_with_ties_and_a_suspect_that_answers_names(run, folder, digits, key):
    import keras

    code, _, err = run(
        "mark", folder / "owner.keras", "--key", folder / "acme.key", "--out", folder / "m.keras", "--tie-margin", 3
    )
    assert code == 2
    assert "`tie_margin` is the largest" in err
    marked = folder / "marked.keras"
    words = ("--key", folder / "acme.key", "--out", marked, "--tie-margin", 0.5, "--budget", 0.1)
    assert run("mark", folder / "owner.keras", *words)[0] == 0
    facts = json.loads(run("inspect", marked)[1])["mark"]
    assert (facts["tie_margin"], facts["amplitudes"]) == (0.5, True)

    labels = keras.Sequential([keras.models.load_model(marked), keras.layers.Lambda(lambda p: keras.ops.argmax(p, -1))])
    labels.build((None, 8, 8, 1))
    labels.export(folder / "labels", verbose=False)
    np.save(folder / "sent.npy", digits.x_train)
    words = ("verify", folder / "labels", "--owner", marked, "--key", folder / "acme.key", "--queries")
    code, out, _ = run(*words, folder / "sent.npy", "--logged", "--labels")
    assert code == 0
    assert "answers labels" in out
    code, _, err = run(*words, folder / "sent.npy", "--labels")
    assert code == 2
    assert "tie channel: it needs logged queries" in err
    code, _, err = run(*words, folder / "sent.npy", "--logged", "--class-names", folder / "none.txt")
    assert code == 2
    assert "Cannot read class names from" in err


def test_verify_checks_that_the_key_opens_the_published_statement(run, folder, other_key):
    words = ("verify", folder / "surrogate.keras", "--owner", folder / "owner.keras", "--queries", folder / "x.npy")
    run("commit", folder / "acme.key", "--model", folder / "owner.keras", "--out", folder / "statement.json")
    assert run(*words, "--key", folder / "acme.key", "--statement", folder / "statement.json")[0] == 0
    other_key.save(folder / "other.key")
    code, _, err = run(*words, "--key", folder / "other.key", "--statement", folder / "statement.json")
    assert code == 2
    assert "The statement commits to the key" in err
    marked = folder / "marked.keras"
    run("mark", folder / "owner.keras", "--key", folder / "acme.key", "--out", marked)
    words = ("verify", folder / "surrogate.keras", "--owner", marked, "--queries", folder / "x.npy")
    code, _, err = run(*words, "--key", folder / "acme.key", "--statement", folder / "statement.json")
    assert code == 2
    assert "Use the file that was committed to" in err


def test_an_unforeseen_failure_is_no_all_clear(run, folder, monkeypatch):
    from dynamarks_tf.verification import verify as verification

    def broken(*_, **__):
        raise RuntimeError("something unforeseen")

    monkeypatch.setattr(verification, "verify", broken)
    words = ("--owner", folder / "owner.keras", "--key", folder / "acme.key", "--queries", folder / "x.npy")
    code, _, err = run("verify", folder / "surrogate.keras", *words)
    assert code == 2
    assert "internal error: RuntimeError: something unforeseen" in err
    monkeypatch.setenv("DYNAMARKS_DEBUG", "1")
    with pytest.raises(RuntimeError, match="something unforeseen"):
        run("verify", folder / "surrogate.keras", *words)


def test_evidence_is_shown_even_if_it_cannot_be_saved(run, folder):
    words = ("--owner", folder / "owner.keras", "--key", folder / "acme.key", "--queries", folder / "x.npy")
    (folder / "file").write_text("")
    code, out, err = run("verify", folder / "surrogate.keras", *words, "--out", folder / "file" / "e.json")
    assert code == 2
    assert "MARK FOUND" in out
    assert "error:" in err


def test_mark_export_inspect_verify(run, folder, key):
    marked = folder / "marked.keras"
    assert run("mark", folder / "owner.keras", "--key", folder / "acme.key", "--out", marked)[0] == 0
    assert stat.S_IMODE(marked.stat().st_mode) == 0o600
    code, _, err = run("mark", folder / "owner.keras", "--key", folder / "acme.key", "--out", marked)
    assert code == 2
    assert "exists. Name another file, or give --force" in err

    facts = json.loads(run("inspect", marked)[1])
    assert facts["mark"]["key_id"] == key.key_id
    assert facts["mark"]["budget"] == 0.05
    assert json.loads(run("inspect", folder / "owner.keras")[1])["mark"] is None

    served = folder / "served" / "clf"
    assert run("export", marked, served, "--warmup", folder / "x.npy")[0] == 0
    assert run("export", marked, served)[0] == 0
    assert sorted(path.name for path in served.iterdir()) == ["1", "2"]
    assert (served / "1" / "assets.extra" / "tf_serving_warmup_requests").is_file()
    assert json.loads(run("inspect", served)[1])["outputs"] == ["probabilities"]
    code, _, err = run("export", marked, served, "--version", 2)
    assert code == 2
    assert "Version 2 exists" in err

    common = ("--owner", marked, "--key", folder / "acme.key", "--queries", folder / "x.npy")
    code, out, err = run("verify", served, *common, "--logged")  # the served model itself is found
    assert code == 0
    assert "MARK FOUND" in out
    assert "asking the suspect" in err
    code, out, _ = run("verify", folder / "surrogate.keras", *common, "--json", "--out", folder / "e.json")
    assert code == 0
    assert json.loads(out)["log10_p"] <= -6
    assert json.loads(out) == json.loads((folder / "e.json").read_text())
    code, out, _ = run("verify", folder / "independent.keras", *common, "--max-queries", 50)
    assert code == 1
    assert "mark not found" in out
    assert run("verify", folder / "surrogate.keras", *common, "--alpha", "1e-300")[0] == 1


def test_export_for_edge_devices(run, folder, marked_model):
    marked_model.save(folder / "marked.keras")
    target = folder / "marked.tflite"
    options = ["--quantize", "int8", "--representative", folder / "x.npy"]
    code, out, _ = run("export", folder / "marked.keras", target, *options)
    assert (code, out) == (0, f"exported {folder / 'marked.keras'} -> {target}\n")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    code, _, err = run("export", folder / "marked.keras", target)
    assert (code, "is never overwritten" in err) == (2, True)


@pytest.mark.parametrize(
    ("target", "option", "message"),
    [
        ("m.tflite", ["--version", 2], "--version is taken only if TARGET does not end in .tflite"),
        ("served", ["--quantize", "int8"], "--quantize is taken only if TARGET ends in .tflite"),
    ],
)
def test_options_of_the_other_kind_of_export_are_refused(run, folder, target, option, message):
    code, _, err = run("export", folder / "owner.keras", folder / target, *option)
    assert (code, message in err) == (2, True)


def test_an_unmarked_export_is_warned_about(run, folder):
    code, _, err = run("export", folder / "owner.keras", folder / "served" / "clf")
    assert code == 0
    assert "is not marked" in err


def test_serve_answers_until_it_is_stopped(run, folder, digits, owner_model, monkeypatch):
    from dynamarks_tf.serving.local_server import LocalServer
    from dynamarks_tf.suspects import as_suspect

    run("export", folder / "owner.keras", folder / "served" / "clf")
    seen = {}

    def ask_then_interrupt(server):
        suspect = as_suspect(server.grpc_url)
        seen["answers"] = suspect.predict(digits.x_test[:5])
        suspect.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalServer, "wait", ask_then_interrupt)
    before = threading.active_count()
    code, out, _ = run("serve", folder / "served" / "clf", "--grpc-port", 0, "--rest-port", 0)
    assert code == 0
    assert "serving clf version 1" in out
    assert "http://127.0.0.1:" in out
    np.testing.assert_allclose(seen["answers"], owner_model(digits.x_test[:5]), atol=1e-5)
    assert threading.active_count() <= before + 2  # no server thread is left; gRPC keeps some of its own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "none.keras"], "There is no file or folder none.keras"),
        (["verify", "grpc://127.0.0.1:1/clf", "--timeout", "2"], "127.0.0.1:1"),
        (["verify", "surrogate.keras", "--alpha", "7"], "`alpha` is a probability"),
        (["verify", "surrogate.keras", "--queries", "none.npy"], "Cannot read queries from none.npy"),
        (["verify", "surrogate.keras", "--key", "none.key"], "Cannot read the key file none.key"),
        (["verify", "surrogate.keras", "--owner", "none.keras"], "There is no Keras model file none.keras"),
        (["verify", "surrogate.keras", "--max-queries", "0"], "Invalid value for '--max-queries'"),
        (["mark", "none.keras", "--key", "acme.key", "--out", "m.keras"], "There is no Keras model file"),
        (["mark", "owner.keras", "--key", "acme.key", "--out", "m.h5"], "--out must be a .keras file"),
        (
            ["mark", "owner.keras", "--key", "acme.key", "--out", "m.keras", "--budget", "0.9"],
            "`budget` is the largest",
        ),
        (["export", "none.keras", "served"], "There is no Keras model file"),
        (["serve", "nowhere", "--grpc-port", "0", "--rest-port", "0"], "nowhere"),
        (["inspect", "x.npy"], "is nothing that can be inspected"),
        (["keygen", "--owner", " ", "--out", "new.key"], "`owner` must say who"),
        (["keygen", "--out", "new.key"], "Give either --owner, for a new key"),
        (["frobnicate"], "No such command"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_exit_with_2_and_say_what_is_wrong(run, folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    if arguments[0] == "verify":
        defaults = {"--owner": "owner.keras", "--key": "acme.key", "--queries": "x.npy"}
        arguments = [*arguments, *(word for pair in defaults.items() if pair[0] not in arguments for word in pair)]
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err + out


def test_key_file_with_wrong_permissions_is_warned_about(run, folder):
    (folder / "acme.key").chmod(0o644)
    code, out, err = run("inspect", folder / "acme.key")
    assert code == 0
    assert "warning: The key file" in err
    assert "chmod 600" in err
    assert json.loads((folder / "acme.key").read_text())["secret"] not in out + err


def test_verify_wants_a_bundle_for_what_goes_into_it(run, folder):
    words = ("verify", folder / "surrogate.keras", "--owner", folder / "owner.keras", "--key", folder / "acme.key")
    code, _, err = run(*words, "--queries", folder / "x.npy", "--reveal-key")
    assert code == 2
    assert "--include-queries and --reveal-key add to the bundle; name its file by --bundle." in err


def test_export_offers_what_the_package_can(run):
    from dynamarks_tf.cli import export
    from dynamarks_tf.export import tflite, tflite_conversion

    assert (export.QUANTIZATIONS, export.SUFFIX) == (tflite_conversion.QUANTIZATIONS, tflite.SUFFIX)


OWN_LAYER = """
import keras

@keras.saving.register_keras_serializable("own")
class Halved(keras.layers.Layer):
    def call(self, x):
        return x / 2
"""


def test_a_model_with_layers_of_its_own(run, tmp_path, key, monkeypatch):
    """The command, which does not know the module of the model, loads it with --import."""
    import keras

    (tmp_path / "own_layers_for_import.py").write_text(OWN_LAYER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own_layers_for_import")
    keras.Sequential([keras.Input((4,)), own.Halved(), keras.layers.Dense(5, "softmax")]).save("own.keras")
    del sys.modules["own_layers_for_import"], keras.saving.get_custom_objects()["own>Halved"]
    sys.path.remove(str(tmp_path))
    key.save(tmp_path / "acme.key")
    code, _, err = run("mark", "own.keras", "--key", "acme.key")
    assert code == 2
    assert "--import MODULE" in err
    assert len(err) < 600
    code, _, err = run("mark", "own.keras", "--key", "acme.key", "--import", "no_such_module")
    assert code == 2
    assert "--import no_such_module: ModuleNotFoundError" in err
    module = ("--import", "own_layers_for_import")
    assert run("mark", "own.keras", "--key", "acme.key", *module)[0] == 0
    assert run("inspect", "own-marked.keras", *module)[0] == 0
    assert run("export", "own-marked.keras", "served/own", *module)[0] == 0


def test_a_lambda_of_ones_own_runs_only_when_allowed(run, tmp_path, key):
    import keras

    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Lambda(lambda x: x / 2), keras.layers.Dense(12, activation="softmax")]
    )
    model.save(tmp_path / "own.keras")
    key.save(tmp_path / "acme.key")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((30, 4), np.float32))
    arguments = ("mark", tmp_path / "own.keras", "--key", tmp_path / "acme.key")
    code, _, err = run(*arguments)
    assert code == 2
    assert "--unsafe-load" in err
    assert len(err) < 600
    assert run(*arguments, "--unsafe-load")[0] == 0
    test = ("--owner", tmp_path / "own-marked.keras", "--key", tmp_path / "acme.key", "--queries", tmp_path / "x.npy")
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(12, activation="softmax")])
    plain.save(tmp_path / "suspect.keras")
    assert run("verify", tmp_path / "suspect.keras", *test)[0] == 2
    code, out, err = run("verify", tmp_path / "suspect.keras", *test, "--unsafe-load")
    assert (code, "mark not found" in out) == (1, True), err
    code, _, err = run("verify", tmp_path / "own.keras", *test, "--unsafe-load")
    assert code == 2  # never for the suspect


def test_mark_says_what_to_type(run, tmp_path, key):
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    model.save(tmp_path / "logits.keras")
    key.save(tmp_path / "acme.key")
    arguments = ("mark", tmp_path / "logits.keras", "--key", tmp_path / "acme.key")
    code, _, err = run(*arguments)
    assert code == 2
    assert "--activation softmax" in err
    assert "--from-logits" in err
    assert run(*arguments, "--from-probabilities")[0] == 2
    assert run(*arguments, "--from-logits")[0] == 0


def test_mark_takes_the_word_of_the_loss_in_the_file(run, tmp_path, key):
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.save(tmp_path / "logits.keras")
    key.save(tmp_path / "acme.key")
    code, out, _ = run("mark", tmp_path / "logits.keras", "--key", tmp_path / "acme.key", "--json")
    assert code == 0
    assert json.loads(out)["mark"]["from_logits"] is True
