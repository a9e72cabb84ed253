"""The code in the documentation runs as it is written, and the reference lists the public names.

Python blocks of a page run one after the other in one folder, shell blocks in another. Both folders hold a trained
model, inputs, and a suspect; the names that the pages use without defining them are in `namespace`. Of the shell
blocks, `dynamarks` and the recheck are run. Of commands that take minutes or never end, only the arguments are parsed.
Lines of other programs are checked for syntax only. Indented lines are not run: test_commands.py reads them.
"""

import contextlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

import dynamarks_tf as dm
from dynamarks_tf import recheck
from dynamarks_tf.cli.main import MODULE_OF, commands, main
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers import ROOT

PAGES = [ROOT / "README.md", ROOT / "serving" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = {"audit", "demo", "serve", "proxy", "collector"}


def with_blocks(language):
    pages = [page for page in PAGES if f"```{language}\n" in page.read_text()]
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


def run_blocks(parser, page, **names):
    document = Sybil([parser, SkipParser()], encoding="utf-8").parse(page)
    document.namespace.update(names)
    for block in document.examples():
        block.evaluate()
    return document.namespace


@pytest.fixture
def folder(tmp_path, monkeypatch, owner_model, surrogate, digits, key):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MarkKey, "generate", lambda owner: key)  # that of the model behind the surrogate
    owner_model.save("model.keras")
    surrogate.save("suspect.keras")
    np.save("x.npy", digits.x_test)
    return tmp_path


@with_blocks("python")
def test_python_blocks_run(page, folder, namespace):
    names = run_blocks(PythonCodeBlockParser(), page, **namespace(page))
    if "evidence" in names:  # the surrogate was stolen from the marked model
        assert names["evidence"].detected()


@with_blocks("sh")
def test_shell_blocks_run(page, folder, key):
    if "dynamarks keygen" not in page.read_text():
        key.save("acme.key")
    with Shell() as shell:
        run_blocks(CodeBlockParser("sh", lambda block: shell.run(block.parsed)), page)


@pytest.fixture
def namespace(folder, marked_model, surrogate, digits, key):
    """The names that a page uses without defining them."""
    import keras

    half = len(digits.x_train) // 2

    def namespace(page):
        marked_model.save("marked.keras")
        names = {
            "dm": dm,
            "keras": keras,
            "np": np,
            "key": key,
            "model": keras.models.load_model("model.keras"),  # copies: a page may train them
            "marked": keras.models.load_model("marked.keras"),
            "suspect": surrogate,
            "x": digits.x_test,
            "x_test": digits.x_test,
            "y_test": digits.y_test,
            "x_train": digits.x_train[:half],
            "y_train": digits.y_train[:half],
            "x_stolen": digits.x_train[half:],
            "images": digits.x_test[:5],
        }
        return {**names, **NAMES_OF[page.name]()} if page.name in NAMES_OF else names

    return namespace


def flowers():
    """A small folder of images, and a model for them."""
    import keras

    for split, count in (("train", 4), ("val", 2)):
        for label, shade in (("rose", 200), ("tulip", 40)):
            (Path("flowers") / split / label).mkdir(parents=True)
            for number in range(count):
                image = np.full((100, 120, 3), shade + number)
                keras.utils.save_img(f"flowers/{split}/{label}/{number}.png", image, scale=False)
    pooled = [keras.Input((96, 96, 3)), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([*pooled, keras.layers.Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return {"model": model}


def one_sigmoid():
    """A binary classifier."""
    import keras

    flat = [keras.Input((8, 8, 1)), keras.layers.Flatten()]
    return {"model": keras.Sequential([*flat, keras.layers.Dense(1, activation="sigmoid")])}


def torch_module():
    """A suspect of PyTorch, where that is installed."""
    torch = pytest.importorskip("torch")
    return {"torch": torch, "module": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))}


NAMES_OF = {"datasets.md": flowers, "heads.md": one_sigmoid, "suspects.md": torch_module}


class Shell(contextlib.ExitStack):
    """Runs the lines of shell blocks that call `dynamarks`; a served folder gets free ports."""

    def __init__(self):
        super().__init__()
        self._addresses = {}

    def run(self, script):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        for line in script.replace("\\\n", " ").splitlines():
            words = [self._addresses.get(word, word) for word in shlex.split(line, comments=True)]
            with contextlib.suppress(ValueError):
                words = words[: words.index(">")]
            if words[:1] == ["dynamarks"]:
                self._dynamarks(words[1], [word for word in words[2:] if word != "&"])
            elif words[:3] == ["python", "-m", "dynamarks_tf.recheck"]:
                assert recheck.main(words[3:]) == 0

    def _dynamarks(self, name, arguments):
        if name not in NOT_RUN:
            assert main([name, *arguments]) == 0, (name, arguments)
            return
        context = click.Context(commands, **commands.context_settings)  # options for help are of the first context
        options = commands.get_command(context, name).make_context(name, [*arguments], parent=context).params
        if name == "serve":
            served = LocalServer(options["folder"], grpc_port=0, rest_port=0, request_log=options["log_dir"])
            server = self.enter_context(served)
            self._addresses[f"grpc://127.0.0.1:8500/{server.name}"] = server.grpc_url
            self._addresses[f"http://127.0.0.1:8501/v1/models/{server.name}"] = server.rest_url


def test_the_reference_lists_exactly_the_public_names():
    listed = re.findall(r"^::: dynamarks_tf\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted([*listed, "__version__"]) == sorted(dm.__all__)


def test_every_public_name_is_documented():
    for name in {*dm.__all__} - {"__version__"}:
        assert getattr(dm, name).__doc__, name


def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    builder = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(builder, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = {page.name: page.read_text() for page in (tmp_path / "site").glob("*.html")}
    assert {"index.html", "api.html", "cli.html", "serving.html"} <= pages.keys()
    for name, page in pages.items():
        assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=.?https?:", page), name
    assert all(f"Usage: dynamarks {name}" in pages["cli.html"] for name in MODULE_OF)
    formulas = pages["statistics.html"] + pages["scheme.html"]
    assert "</math>" in formulas
    assert "$" not in re.sub(r"<(script|code|style).*?</\1>", "", formulas, flags=re.DOTALL)
    assert "largest total variation between clean and released output" in pages["api.html"]
