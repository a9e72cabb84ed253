"""What may import what, what runs without TensorFlow, and what must never reach the key: one table, `RULES`.

docs/architecture.svg and the table in docs/architecture.md are drawn from it: `python -m docs.architecture`.
"""

import ast
import subprocess
import sys
import textwrap
from typing import NamedTuple

import pytest

from tests.helpers import ROOT

PACKAGE = ROOT / "dynamarks_tf"
ALL = "*"


class Rule(NamedTuple):
    """The rule of one folder, or of one module that stands in the package's root.

    Attributes:
        purpose: what lives there.
        may_import: folders that its modules may import, beside their own.
        without_tensorflow: modules that must run where neither TensorFlow nor Keras is installed; `*` for all.
        never_reaches_the_key: modules that must not know the key, not even indirectly: an attack that is run cannot
            cheat, residuals cannot use secret signs. `*` for all.
    """

    purpose: str
    may_import: str = ""
    without_tensorflow: str = ""
    never_reaches_the_key: str = ""


# In the order in which things depend on each other: a folder imports only what stands above it.
RULES = {
    "_version": Rule("the version", "", ALL, ALL),
    "foreign_text": Rule("how foreign text is shown, and secrets are not", "", ALL, ALL),
    "errors": Rule("all exceptions", "foreign_text", ALL, ALL),
    "_support": Rule("files, digests, formats, progress", "foreign_text errors", ALL, ALL),
    "keys": Rule("the secret key, the commitment", "_support foreign_text errors", ALL),
    "watermark": Rule(
        "the mark: settings, tables, formula, layer",
        "keys errors",
        "params keyed_hash codebook probabilities metrics",
        "params keyed_hash probabilities metrics outputs probe model_digest",
    ),
    "export": Rule("SavedModel and TensorFlow Lite", "watermark _support errors", "", ALL),
    "evidence": Rule("answers to p-values", "watermark errors", ALL, ALL),
    "case": Rule(
        "plan, transcript, assessment, result, bundle",
        "evidence watermark keys _support foreign_text errors",
        ALL,
        "plan query_provenance draw transcript result bundle",
    ),
    "suspects": Rule("adapters for models under test", "_support foreign_text errors", "base queries answer_file", ALL),
    "request_logs": Rule("what clients asked: one reader, one writer", "_support foreign_text errors", ALL, ALL),
    "serving.protocol": Rule(
        "status, ports, tensors", "request_logs _support errors", "dtypes json_tensor limits ports status", ALL
    ),
    "serving.local_server": Rule(
        "TensorFlow Serving's stand-in", "serving.protocol request_logs export _support foreign_text errors", "", ALL
    ),
    "serving.gateway": Rule(
        "Envoy in front of it, and the log's collector",
        "serving.protocol request_logs _support foreign_text errors",
        ALL,
        ALL,
    ),
    "datasets": Rule("real images", "_support errors", "", ALL),
    "attacks": Rule("extraction, post-processing, removal", "suspects export _support errors", "", ALL),
    "recheck": Rule("recompute a bundle", "case evidence watermark keys _support foreign_text errors", ALL),
    "report": Rule(
        "one page for people", "recheck case evidence watermark keys _support _version foreign_text errors", ALL
    ),
    "verification": Rule(
        "`verify`, from suspect to result",
        "case evidence suspects request_logs watermark keys _support _version foreign_text errors",
    ),
    "distributed": Rule(
        "log reduction on a cluster", "verification request_logs watermark _support errors", "", "kit worker"
    ),
    "audit": Rule(
        "attacks run on the owner's model",
        "verification report attacks datasets case evidence suspects watermark keys _support errors",
    ),
    "demo": Rule(
        "the whole story on real images",
        "verification report attacks datasets serving.gateway serving.local_server request_logs export case suspects "
        "watermark keys _support errors",
    ),
    "cli": Rule(
        "the command `dynamarks`",
        "demo audit distributed verification report recheck attacks datasets serving.gateway serving.local_server "
        "request_logs suspects case export watermark keys _support _version foreign_text errors",
    ),
}
SECRETS = {"keys.key", "keys.commitment", "watermark.codebook"}
MOST_ROOT_FILES = 8
UNIX = {
    *("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios"),
    *(
        "os.O_CLOEXEC",
        "os.O_NOFOLLOW",
        "os.O_NONBLOCK",
        "os.O_PATH",
        "os.fork",
        "os.geteuid",
        "os.getuid",
        "os.sysconf",
    ),
    *("signal.SIGALRM", "signal.SIGHUP", "signal.SIGKILL", "socket.AF_UNIX"),
}


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE}
MODULES |= {path.stem: path for path in sorted(PACKAGE.glob("*.py")) if path.stem not in ("__init__", "__main__")}


def folder_of(module):
    return max((name for name in RULES if f"{module}.".startswith(f"{name}.")), key=len, default=module)


def imported(path):
    """Full names of what a module imports, at any level; imports for type checkers only are left out."""
    names = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_modules(path):
    """The modules of this package that a module imports, and the folders above them, which Python imports too."""
    found = set()
    for name in imported(path):
        parts = name.split(".")[1:] if name.startswith("dynamarks_tf.") else []
        found |= {".".join(parts[:length]) for length in range(1, len(parts) + 1)} & set(MODULES)
    return found


GRAPH = {name: own_modules(path) for name, path in MODULES.items()}


def listed(names, folder):
    """The modules that an entry of the table names."""
    inside = [module for module in MODULES if folder_of(module) == folder]
    if names == ALL:
        return inside
    chosen = [f"{folder}.{name}" for name in names.split()]
    assert set(chosen) <= set(inside), f"{folder} has no modules {set(chosen) - set(inside)}"
    return chosen


def test_every_folder_has_a_rule_and_every_rule_a_folder():
    assert {folder_of(module) for module in MODULES} - {"serving"} == set(RULES)
    order = list(RULES)
    for name, rule in RULES.items():
        later = [other for other in rule.may_import.split() if order.index(other) >= order.index(name)]
        assert not later, f"{name} may import {later}, which stand below it"


def test_the_root_holds_few_files():
    assert len([*PACKAGE.glob("*.py")]) <= MOST_ROOT_FILES


@pytest.mark.parametrize("folder", RULES)
def test_folders_import_only_what_their_rule_allows(folder):
    allowed = {folder, "serving", *RULES[folder].may_import.split()}
    used = {}
    for module in listed(ALL, folder):
        for other in GRAPH[module]:
            used.setdefault(folder_of(other), set()).add(module)
    assert not {other: used[other] for other in set(used) - allowed}
    unused = allowed - {folder, "serving"} - set(used)
    assert not unused, f"the rule of {folder} allows {unused}, which nothing there imports"


@pytest.mark.parametrize("folder", [name for name in RULES if (PACKAGE / name.replace(".", "/")).is_dir()])
def test_folders_say_what_lives_there(folder):
    described = ast.get_docstring(ast.parse((PACKAGE / folder.replace(".", "/") / "__init__.py").read_text()))
    assert described.split("\n")[0].endswith("."), "the first line is no sentence"
    assert "mport" in described, "it does not say what may import it"


@pytest.mark.parametrize("folder", [name for name, rule in RULES.items() if rule.never_reaches_the_key])
def test_blind_modules_never_reach_the_key(folder):
    for module in listed(RULES[folder].never_reaches_the_key, folder):
        reached, waiting = {module}, [module]
        while waiting:
            for other in GRAPH[waiting.pop()] - reached:
                reached.add(other)
                waiting.append(other)
        assert not reached & SECRETS, f"{module} reaches {reached & SECRETS}"


def test_nobody_imports_the_package_root_or_private_keras():
    for path in MODULES.values():
        tree = ast.parse(path.read_text())
        roots = [n for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names if a.name == "dynamarks_tf"]
        from_root = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "dynamarks_tf"
            for alias in node.names
        }
        assert not roots, f"{path} imports the package root"
        assert from_root <= set(MODULES), f"{path} imports public names from the package root"
        assert not [name for name in imported(path) if name.startswith("keras.src")], f"{path} uses private Keras"


def test_the_import_of_the_package_needs_no_unix():
    """What Windows lacks is used inside functions only, which say so."""
    for path in MODULES.values():
        nodes = [*outside_functions(ast.parse(path.read_text()))]
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        names |= {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
        assert not names & UNIX, f"{path} needs {names & UNIX} when it is imported"


def outside_functions(node):
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


@pytest.mark.parametrize("folder", [name for name, rule in RULES.items() if rule.without_tensorflow])
def test_modules_that_run_without_tensorflow(folder):
    modules = [f"dynamarks_tf.{module}" for module in listed(RULES[folder].without_tensorflow, folder)]
    run_python(
        f"""
        import importlib, sys
        sys.modules["tensorflow"] = sys.modules["keras"] = None
        for module in {modules!r}:
            importlib.import_module(module)
        """
    )


def test_importing_the_package_loads_neither_keras_nor_tensorflow_but_registers_the_layer():
    run_python(
        """
        import sys
        import dynamarks_tf as dm
        assert not {"keras", "tensorflow"} & set(sys.modules)
        assert dm.MarkKey.generate("x").key_id and "tensorflow" not in sys.modules
        import keras
        registered = lambda: keras.saving.get_registered_object("dynamarks_tf>DynaMarkLayer")
        assert registered() is dm.DynaMarkLayer
        # The other way round: Keras is there first.
        keras.saving.get_custom_objects().clear()
        for name in [name for name in sys.modules if name.split(".")[0] == "dynamarks_tf"]:
            del sys.modules[name]
        assert registered() is None
        import dynamarks_tf as again
        assert again is not dm and registered() is again.DynaMarkLayer
        """
    )


def test_public_names_are_there_and_unknown_ones_are_not():
    import dynamarks_tf as dm

    assert [name for name in dm.__all__ if getattr(dm, name) is None] == []
    assert set(dm.__all__) <= set(dir(dm))
    with pytest.raises(AttributeError, match="has no attribute 'proof'"):
        _ = dm.proof


@pytest.mark.parametrize("command", [["--help"], ["keygen", "--help"], ["verify", "--help"], ["--version"]])
def test_commands_without_a_model_do_not_load_tensorflow(command):
    run_python(
        f"""
        import sys
        from dynamarks_tf.cli.main import main
        assert main({command!r}) == 0
        assert not {{"keras", "tensorflow"}} & set(sys.modules)
        """
    )


def test_the_picture_and_the_table_of_the_architecture_follow_the_rules():
    from docs import architecture

    drawn = architecture.draw(RULES)
    assert (ROOT / "docs" / "architecture.svg").read_text() == drawn, "run: python -m docs.architecture"
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert architecture.with_table(page, RULES) == page, "run: python -m docs.architecture"


def run_python(script):
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=ROOT)
