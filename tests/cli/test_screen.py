"""What the command line puts on the screen: help that fits, JSON for machines, colors, no start-up noise."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys

import click
import numpy as np
import pytest

from dynamarks_tf.cli.main import commands, main
from tests.helpers import ROOT, small_classifier

COMMANDS = commands.list_commands(click.Context(commands))


def python(script, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, **options
    )


@pytest.fixture
def shown(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def shown(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return shown


def test_help_fits_a_screen_and_cuts_no_sentence(shown):
    code, out, _ = shown("--help")
    assert code == 0
    assert len(out.splitlines()) <= 24
    assert "..." not in out.partition("Commands:")[2]
    assert all(name in out for name in COMMANDS if name != "collector")  # which `proxy` runs
    assert "Exit codes: 0" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_fits_the_width_and_shows_how_to_use_it(shown, name):
    code, out, err = shown(name, "-h")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert f"\n    dynamarks {name} " in out


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["verify"], ["SUSPECT", "--owner", "--key", "--queries", "--log"]),
        (["verify", "suspect.keras"], ["SUSPECT", "--owner", "--key", "--queries", "--log"]),
        (["trace"], ["SUSPECT", "--owner", "--key", "--log", "--keys", "--queries"]),
    ],
)
def test_a_test_without_its_arguments_explains_the_three_things_that_it_needs(shown, arguments, options):
    code, out, err = shown(*arguments)
    assert (code, out) == (2, "")
    explained, error = err.split("Usage: ")
    assert "needs three things" in explained
    assert all(option in explained for option in options)
    assert f"\n  dynamarks {arguments[0]} suspect.keras --owner " in explained
    assert max(map(len, explained.splitlines())) <= 80
    assert "Error: Missing" in error


@pytest.fixture
def folder(tmp_path, monkeypatch, owner_model, digits, key):
    monkeypatch.chdir(tmp_path)
    owner_model.save("model.keras")
    np.save("x.npy", digits.x_test)
    key.save("acme.key")
    return tmp_path


def test_json_is_all_there_is_on_standard_output(folder, shown, key):
    def facts(code, *words):
        found, out, _ = shown(*words, "--json")
        assert found == code
        return json.loads(out)

    made = facts(0, "keygen", "--owner", "Other", "--out", "other.key")
    assert made["commitment"] == facts(0, "inspect", "other.key")["commitment"]
    assert facts(0, "commit", "acme.key")["commitment"] == key.commitment
    marked = facts(0, "mark", "model.keras", "--key", "acme.key")
    assert marked["path"] == "model-marked.keras"
    assert marked["mark"]["key_id"] == key.key_id
    written = facts(0, "export", "model-marked.keras", "served/clf")
    assert written == {"path": "served/clf/1", "version": 1}
    small_classifier(seed=1).save("independent.keras")
    words = ("--owner", "model-marked.keras", "--key", "acme.key", "--queries", "x.npy")
    evidence = facts(1, "verify", "independent.keras", *words, "--bundle", "bundle.zip")
    assert facts(0, "check", "bundle.zip")["log10_p"] == evidence["log10_p"] > -6


def test_tensorflow_says_nothing_on_the_screen(folder):
    script = """
import sys
import numpy as np
from dynamarks_tf.cli.main import main
assert main(["mark", "model.keras", "--key", "acme.key"]) == 0
assert main(["inspect", "model-marked.keras"]) == 0
assert main(["export", "model-marked.keras", "served/clf"]) == 0
from dynamarks_tf.attacks.quantization import QuantizedModel
from dynamarks_tf.watermark.marking import load_model
images = np.load("x.npy")
QuantizedModel(load_model("model.keras"), "int8", images)(images)
words = ["--owner", "model-marked.keras", "--key", "acme.key", "--queries", "x.npy"]
sys.exit(main(["verify", "served/clf", *words, "--logged"]))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    path = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    noise = [
        line
        for line in done.stderr.splitlines()
        if not re.match("plan fixed: sha256|(asking|reading) the |the log holds", line)
    ]
    assert noise == []
    assert "MARK FOUND" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr  # no terminal, no colors


HEAVY = {"keras", "tensorflow", "grpc", "rich", "requests", "werkzeug", "sklearn", "matplotlib"}
UNNEEDED = {"numpy", "cryptography.x509"}


@pytest.mark.parametrize(
    ("words", "too_much"),
    [
        ("--help", HEAVY | UNNEEDED),
        ("mark --help", HEAVY | UNNEEDED),
        ("verify --help", HEAVY | UNNEEDED),
        ("--version", HEAVY | UNNEEDED),
        ("keygen --owner ACME --out new.key", HEAVY | UNNEEDED),
        ("commit acme.key", HEAVY | UNNEEDED),
        ("inspect acme.key", HEAVY | UNNEEDED),
        ("completion bash", HEAVY | UNNEEDED),
        ("check bundle.zip", HEAVY),
    ],
)
def test_what_needs_no_model_loads_nothing_heavy(tmp_path, key, words, too_much):
    key.save(tmp_path / "acme.key")
    script = "import os, sys; from dynamarks_tf.cli.main import main; os.chdir(sys.argv[1]); main(sys.argv[2:]); "
    done = python(f"{script} print(*sys.modules, sep=chr(10), file=sys.stderr)", tmp_path, *words.split(), check=True)
    assert too_much & set(done.stderr.splitlines()) == set()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "expected"), [("dynamarks ver", {"verify"}), ("dynamarks mark --tie", {"--tie-margin"})]
)
def test_bash_completes_commands_and_options(tmp_path, typed, expected):
    program = tmp_path / "dynamarks"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m dynamarks_tf "$@"\n')
    program.chmod(0o755)
    script = f"""
source <(dynamarks completion bash)
COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_dynamarks_completion dynamarks
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_too(shown, shell):
    code, out, _ = shown("completion", shell)
    assert code == 0
    assert f"_DYNAMARKS_COMPLETE={shell}_complete" in out


@pytest.mark.parametrize(("variables", "colored"), [({}, True), ({"NO_COLOR": "1"}, False)], ids=["colors", "none"])
def test_colours_on_a_terminal_unless_they_are_unwanted(variables, colored):
    unset = {"NO_COLOR", "FORCE_COLOR", "COLORTERM"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    ours, theirs = pty.openpty()
    script = "from dynamarks_tf._support.progress import track; list(track(range(3), 'asking', 3))"
    try:
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**environment, "TERM": "xterm-256color", **variables},
            stderr=theirs,
            check=True,
        )
        seen = os.read(ours, 1 << 16).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert "3/3" in seen
    assert bool(re.search(r"\x1b\[[\d;]*3\d", seen)) is colored
