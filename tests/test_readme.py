"""The README's code runs as it stands, and its commands exist."""

import re
from pathlib import Path

import numpy as np
import pytest

from dynamarks_tf.cli import commands
from dynamarks_tf.key import MarkKey

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_block_runs(tmp_path, monkeypatch, owner_model, surrogate, digits, key, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MarkKey, "generate", lambda owner: key)  # the key that the surrogate was stolen under
    surrogate.save("suspect.keras")
    (code,) = blocks("python")
    names = {"model": owner_model, "x": digits.x_test}
    exec(code, names)
    assert names["evidence"].detected(alpha=1e-6)
    assert names["key"].commitment in capsys.readouterr().out
    assert {"acme.key", "marked.keras", "evidence.json"} <= {path.name for path in tmp_path.iterdir()}


def test_the_shell_block_runs_apart_from_the_server(tmp_path, monkeypatch, owner_model, digits, key, capsys):
    import shlex

    from dynamarks_tf.cli import main
    from dynamarks_tf.local_server import LocalServer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MarkKey, "generate", lambda owner: key)
    owner_model.save("model.keras")
    np.save("x.npy", digits.x_test)
    (script,) = blocks("sh")
    lines = [shlex.split(line) for line in script.splitlines()]
    assert [line[1] for line in lines] == ["keygen", "mark", "export", "serve", "verify"]
    for line in lines[:3]:
        assert main(line[1:]) == 0
    with LocalServer("served/clf", grpc_port=0, rest_port=None) as server:
        address = server.grpc_url
        assert main([word.replace("grpc://127.0.0.1:8500/clf", address) for word in lines[4][1:]]) == 0
    assert "MARK FOUND" in capsys.readouterr().out


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_every_command_has_an_example_in_its_help():
    assert set(commands.commands) == {
        "keygen",
        "commit",
        "mark",
        "export",
        "serve",
        "proxy",
        "verify",
        "check",
        "inspect",
        "audit",
        "demo",
    }
    for name, command in commands.commands.items():
        assert f"dynamarks {name}" in command.help, name


def test_make_targets_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
