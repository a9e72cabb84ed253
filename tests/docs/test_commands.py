"""Every command that a page shows could be run as it stands.

`test_docs.py` runs the `dynamarks` lines of shell blocks. Indented lines need hosts, a cluster or time, and sentences
quote parts of commands. Here they are read: `dynamarks` by its own parser, scripts and tests by their files and
options, `make` by the Makefile. Commands of the programs in `FOREIGN` are not checked, and no others are allowed.
"""

import ast
import functools
import re
import shlex
import textwrap

import click
import pytest

from dynamarks_tf.cli.main import commands
from tests.helpers import ROOT

PAGES = sorted([*ROOT.glob("*.md"), ROOT / "serving" / "README.md", *ROOT.glob("docs/*.md")])
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
FORMULAS = "key-format.md"  # its indented lines
TEXTS = {"dynamarks decoy 0/i"}  # that is hashed
OF_TENSORFLOW_SERVING = {
    *("--allow_version_labels_for_unavailable_models", "--batching-parameters-file", "--enable_batching"),
}
PROGRAMS = {"dynamarks", "python", "make", "pip"}
FOREIGN = {
    *("kubectl", "docker", "istioctl", "tensorflow_model_server"),  # need a cluster, a container engine, a server
    *("curl", "openssl", "model_signing", "git", "pre-commit", "venv-pack"),
    *("umask", "sudo", "export", "cp", "sed", "cd", "source"),
}
SCRIPTS = [path for folder in ("benchmarks", "examples", "serving", "docs") for path in (ROOT / folder).rglob("*.py")]


def blocks(text):
    """Indented blocks and shell blocks."""
    without_fences = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^ {4}.*\n)+", without_fences, re.MULTILINE)
    return [textwrap.dedent(block) for block in indented] + re.findall(r"(?ms)^```sh\n(.*?)^```$", text)


def is_python(block):
    try:
        ast.parse(block)
    except SyntaxError:
        return False
    return True


def commands_of(block):
    """The commands of a shell block, each as words, without variables and redirections."""
    for line in block.replace("\\\n", " ").splitlines():
        words = []
        for word in [*shlex.split(re.sub(r"(^|\s)#.*", "", line)), ";"]:
            if word not in ("&&", "|", "&", ";"):
                words.append(word)
                continue
            while words and re.match(r"[A-Z_]+=", words[0]):
                del words[0]
            if words:
                yield words[: words.index(">")] if ">" in words else words
            words = []


def option_names(command):
    """Options of a command and of its subcommands."""
    if isinstance(command, click.Group):
        found = [command.get_command(click.Context(command), name) for name in command.list_commands(None)]
        return {name for each in found for name in option_names(each)} | {"--help", "--version"}
    return {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}


def check_dynamarks(words, *, whole):
    """Parses a whole command, or looks up the name and the options of a part of one."""
    if not whole and words and words[0].isupper():  # such as COMMAND
        words = words[1:]
        named = commands
    else:
        named, name, context = commands, None, click.Context(commands, **commands.context_settings)
        while isinstance(named, click.Group) and words and words[0] in named.list_commands(context):
            if name:
                context = click.Context(named, parent=context, info_name=name)
            name, *words = words
            named = named.get_command(context, name)
        assert name or not words, f"there is no command {words}"
        if whole:
            assert not isinstance(named, click.Group), f"{name} needs one of its commands: {words}"
            named.make_context(name, [*words], parent=context)
    assert {word for word in words if word.startswith("--")} <= option_names(named), words


def check_python(words):
    """A module or script of the repository exists and knows the options; a selection of tests selects some."""
    if words[0] == "-m" and words[1] == "pytest":
        files = [ROOT / word for word in words if word.startswith("tests/")] or [ROOT / "tests"]
        assert all(file.exists() for file in files), words
        if "-k" in words:
            modules = [path for file in files for path in ([file] if file.is_file() else file.rglob("test_*.py"))]
            names = "\n".join(path.read_text() for path in modules)
            assert re.search(rf"def test_\w*{words[words.index('-k') + 1]}", names), words
    elif words[0] == "-m" and words[1] != "venv":
        module = ROOT / words[1].replace(".", "/")
        assert module.is_dir() or module.with_suffix(".py").is_file(), words
        check_options(module.with_suffix(".py"), words[2:])
    elif words[0].endswith(".py"):
        check_options(ROOT / words[0], words[1:])


def check_options(script, words):
    if script.is_file():
        assert {word for word in words if word.startswith("--")} <= {*options_in(script)}, (script, words)


def options_in(script):
    return re.findall(r'"(--[a-z][\w-]*)"', script.read_text())


def check(words, *, whole=True):
    program, *rest = words
    program = program.rpartition("/")[2]
    if program == "dynamarks":
        check_dynamarks(rest, whole=whole)
    elif program == "python":
        check_python(rest)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= {*targets}, words
    elif program == "pip":
        known = re.findall(r'"(\w+)": ', (ROOT / "setup.py").read_text())
        assert {*re.findall(r"dynamarks_tf\[(\w+)\]", " ".join(rest))} <= {*known}, words
    elif program == "spark-submit":
        (place,) = [place for place, word in enumerate(rest) if word.endswith(".py")]
        assert rest[place] == "examples/reduce_on_spark.py"
        check_dynamarks(["reduce", *rest[place + 1 :]], whole=True)
    else:
        assert program in FOREIGN, words


@pages
def test_commands_in_blocks_could_be_run(page):
    shown = [block for block in blocks(page.read_text()) if not is_python(block) and page.name != FORMULAS]
    for words in (words for block in shown for words in commands_of(block)):
        check(words)


@functools.cache
def arguments():
    """Names of the arguments of each public function, without an import of the package."""
    modules = [ast.parse(path.read_text()) for path in (ROOT / "dynamarks_tf").rglob("*.py") if "cli" not in path.parts]
    functions = [node for module in modules for node in module.body if isinstance(node, ast.FunctionDef)]
    return {each.name: {one.arg for one in (*each.args.args, *each.args.kwonlyargs)} for each in functions}


@pages
def test_python_that_is_only_shown_calls_functions_by_their_arguments(page):
    """Blocks of Python are run by test_docs.py; indented ones need a server or files."""
    for block in filter(is_python, blocks(page.read_text())):
        for call in ast.walk(ast.parse(block)):
            name = ast.unparse(call.func).removeprefix("dm.") if isinstance(call, ast.Call) else None
            if name in arguments():
                assert {word.arg for word in call.keywords} <= arguments()[name], ast.unparse(call)


def quoted(text):
    """What stands in backquotes within sentences and tables."""
    sentences = re.sub(r"^ *```.*?^ *```$|^ {4}.*?$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"(?<!`)`([^`]+)`(?!`)", sentences)


@pages
def test_commands_within_sentences_name_what_there_is(page):
    for code in quoted(page.read_text()):
        words = [word for word in code.split() if word != "..." and not re.match(r"[A-Z_]+=", word)]
        if len(words) > 1 and words[0] in PROGRAMS and code not in TEXTS:
            check(next(commands_of(" ".join(words))), whole=False)


@functools.cache
def known_options():
    return option_names(commands).union(*map(options_in, SCRIPTS))


@pages
def test_options_within_sentences_exist(page):
    found = [re.findall(r"(?<![\w-])--[a-z][\w-]+", code) for code in quoted(page.read_text())]
    assert {name for names in found for name in names} - known_options() <= OF_TENSORFLOW_SERVING


@functools.cache
def names_of_tests():
    paths = [*ROOT.glob("tests/**/test_*.py")]
    functions = {name for path in paths for name in re.findall(r"def (test_\w+)", path.read_text())}
    return "\n".join(sorted({path.stem for path in paths} | functions))


@pages
def test_tests_that_a_page_names_exist(page):
    for name, cut in re.findall(r"\b(test_\w{15,})(\.\.\.)?", page.read_text()):
        assert re.search(rf"^{name}{'' if cut else '$'}", names_of_tests(), re.MULTILINE), name


def test_a_wrong_command_is_found():
    for line in (
        "dynamarks prove suspect.keras",
        "dynamarks verify suspect.keras --ownr marked.keras",
        "dynamarks client ad alice",
        "python benchmarks/studies/trace.py --reprt",
        "python -m pytest tests/evidence -k no_such_test",
        "make tset",
        "pip install 'dynamarks_tf[no]'",
        "unknown --x",
    ):
        with pytest.raises((AssertionError, click.ClickException)):
            check(next(commands_of(line)))
