"""The demo, end to end over real sockets, on some of the images that it is made for."""

import dataclasses
import json
import os
import re

import pytest

from dynamarks_tf import datasets, demo
from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ArgumentError, ServingError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.serving.gateway import launcher


def fixed_key(owner):
    """Replaces the demo's random key, so that the tests give the same result in every run."""
    return MarkKey(bytes(range(32)), owner)


def has_envoy():
    try:
        return bool(launcher.find_envoy())
    except ServingError:
        return False


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    data = os.environ.get(datasets.FOLDER_VARIABLE) or datasets.DEBIAN_FOLDER
    if not os.path.isdir(data):
        pytest.skip("Fashion-MNIST is not on this machine: run `make data`, or set DYNAMARKS_DATA")
    folder = tmp_path_factory.mktemp("demo") / "out"
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MarkKey, "generate", fixed_key)
        options = {"data": data, "seed": 2, "epochs": 12, "max_images": 8_000}
        result = demo.run_demo(folder, gateway=has_envoy(), say=lines.append, verbose=False, **options)
    return result, lines, folder


def test_surrogates_are_detected_and_independent_models_are_not(finished):
    result, _, _ = finished
    assert result.dataset == "Fashion-MNIST"
    surrogate, label_surrogate, *independent = result.suspects
    assert all(suspect.as_expected for suspect in (surrogate, *independent))
    assert surrogate.final.log10_p <= -12  # -51 here, -31 with another seed
    assert label_surrogate.final.answers == "labels"
    assert label_surrogate.final.log10_p <= -6  # -13 here, -14 with another seed
    assert all(evidence.log10_p > -3 for suspect in independent for evidence in suspect.evidence.values())


def test_of_three_clients_the_one_whose_answers_were_used_is_found(finished):
    surrogate, _, *independent = finished[0].suspects
    assert [*surrogate.trace.clients] == [*demo.CLIENTS]
    assert surrogate.trace.detected() == (demo.ATTACKER,)
    others = [surrogate.trace.clients[name] for name in demo.CLIENTS if name != demo.ATTACKER]
    assert all(client.exclusive_signs > 50 and client.adjusted_log10_p > -2 for client in others)
    assert [suspect.trace.detected() for suspect in independent] == [(), ()]


def test_a_wrong_client_is_not_as_expected(finished):
    surrogate, _, independent, _ = finished[0].suspects
    assert surrogate.as_expected
    assert not dataclasses.replace(surrogate, trace=independent.trace).as_expected


def test_the_mark_costs_next_to_no_accuracy(finished):
    cost = finished[0].cost
    assert cost.top1_agreement > 0.95
    assert abs(cost.marked_accuracy - cost.clean_accuracy) < 0.005
    assert 0 < cost.mean_total_variation <= cost.max_total_variation <= 0.1 + 1e-6  # ties take up to twice the budget


def test_the_folder_holds_everything_and_the_lines_explain_it(finished):
    result, lines, folder = finished
    left = {path.name for path in folder.iterdir()}
    assert {"surrogate-report.html", "surrogate-report.report.json"} <= left
    assert "The mark of Demo Owner was detected in the suspect." in (folder / "surrogate-report.html").read_text()
    assert {"owner.key", "owner.keras", "marked.keras", "surrogate.keras", "queries.npy", "report.json"} <= left
    report = json.loads((folder / "report.json").read_text())
    assert (report["format"], report["version"]) == ("dynamarks-demo", 5)
    assert report["suspects"][0]["evidence"]["100 fresh"]["log10_p"] == result.suspects[0].evidence["100 fresh"].log10_p
    secret = json.loads((folder / "owner.key").read_text())["secret"]
    assert secret not in "".join(lines) + json.dumps(report)
    assert any("commitment" in line for line in lines)
    assert any("behind Envoy" in line for line in lines) is has_envoy()


def test_the_printed_commands_repeat_detection_and_recheck(finished, capsys):
    result, _, _ = finished
    commands = [command.split() for command in result.commands]
    assert [words[:2] for words in commands] == [
        ["dynamarks", name] for name in ("verify", "verify", "trace", "check", "verify")
    ]
    verify, sequential, trace, check, of_labels = commands
    assert main(of_labels[1:]) == 0
    assert main(sequential[1:]) == 0
    assert "planned; enough" in capsys.readouterr().out
    expected = result.suspects[0].evidence["100 fresh"]
    code = main([*verify[1:], "--json"])
    again = json.loads(capsys.readouterr().out)
    assert code == (0 if expected.detected() else 1)
    assert again["log10_p"] == pytest.approx(expected.log10_p, abs=1e-3)
    assert again["plan_sha256"] == expected.plan.digest
    for command in (trace, check):
        assert main(command[1:]) == 0
        out = capsys.readouterr().out
        assert "MARK FOUND" in out
        assert re.search(rf"^ *'{demo.ATTACKER}' .* FOUND$", out, re.MULTILINE)


def code_of(result):
    """The exit code: with few images, labels alone may leave too little for 10^-6."""
    return 0 if result.as_expected else 1


def test_the_table_names_each_suspect_and_its_outcome(finished, capsys, monkeypatch):
    result, _, _ = finished
    monkeypatch.setattr(demo, "run_demo", lambda *_, **__: result)
    assert main(["demo"]) == code_of(result)
    shown = capsys.readouterr().out
    for suspect in result.suspects:
        outcome = "DETECTED" if suspect.final.detected() else "not detected"
        asked = r"\d+" if suspect.final.detected() else r"not within [\d,]+"
        client = demo.ATTACKER if suspect.is_stolen else "none found"
        assert re.search(rf"^{suspect.name} .* {outcome} +{asked}$", shown, re.MULTILINE)
        assert re.search(rf"^{suspect.name} .* {client}$", shown, re.MULTILINE) or suspect.trace is None
    assert all(command in shown for command in result.commands)


def test_without_envoy_the_demo_says_so_and_goes_on(finished, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(demo, "run_demo", lambda *_, gateway, **__: asked.append(gateway) or finished[0])
    monkeypatch.setattr(launcher, "find_envoy", refused)
    assert main(["demo", "--gateway"]) == code_of(finished[0])
    assert asked == [False]
    assert "There is no Envoy. The demo goes on without the gateway." in capsys.readouterr().out


def refused():
    raise ServingError("There is no Envoy.")


def test_json_for_machines(finished, capsys, monkeypatch):
    result, lines, folder = finished

    def replayed(*_, say, **__):
        say(lines[0])
        return result

    monkeypatch.setattr(demo, "run_demo", replayed)
    assert main(["demo", "--json"]) == code_of(result)
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((folder / "report.json").read_text())
    assert lines[0] in err


def test_nothing_is_overwritten(finished):
    with pytest.raises(ArgumentError, match="is not empty. Name a new one; nothing is overwritten"):
        demo.run_demo(finished[2])
