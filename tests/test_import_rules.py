"""What may import what: the order of the modules, and who may know the key."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dynamarks_tf"

# A module imports only what stands above it. A folder counts as one entry; inside it, anything but a cycle goes.
ORDER = (
    "_version errors _files _json _formats _digests params buckets key commitment codebook answers metrics progress "
    "evidence plan verdict recording bundle case judgement recheck report queries request_logs perturbation cells "
    "layer marking callbacks _stderr export suspects local_server proxy attacks datasets inspection verification audit "
    "demo cli"
).split()

# Modules that must run where neither TensorFlow nor Keras is installed.
WITHOUT_TENSORFLOW = (
    "_version errors _files _json _formats _digests params buckets key commitment codebook answers metrics progress "
    "evidence plan verdict recording bundle case judgement recheck report queries request_logs"
).split()

# Modules that must not know the key, not even indirectly: a rehearsed thief cannot cheat, residuals cannot use signs.
BLIND = (
    "buckets answers metrics progress evidence plan verdict recording bundle queries request_logs export suspects "
    "local_server proxy attacks datasets"
).split()
SECRETS = {"key", "commitment", "codebook"}


def entry(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules():
    return [
        path
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("__main__.py",) and path.parent != PACKAGE / "__pycache__"
    ]


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


def own_entries(path):
    found = set()
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "dynamarks_tf" and len(parts) > 1 and parts[1] in ORDER:
            found.add(parts[1])
    return found


GRAPH = {}
for module in modules():
    if module != PACKAGE / "__init__.py":
        GRAPH.setdefault(entry(module), set()).update(own_entries(module))


def test_every_module_has_its_place():
    assert set(GRAPH) == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_modules_import_only_what_stands_above_them(name):
    below = {other for other in GRAPH[name] if ORDER.index(other) > ORDER.index(name)}
    assert not below, f"{name} imports {below}, which stand below it in the order"


@pytest.mark.parametrize("name", BLIND)
def test_blind_modules_never_reach_the_key(name):
    reached, waiting = set(), [name]
    while waiting:
        for other in GRAPH[waiting.pop()] - reached:
            reached.add(other)
            waiting.append(other)
    assert not reached & SECRETS


def test_nobody_imports_the_package_root_or_private_keras():
    for path in modules():
        tree = ast.parse(path.read_text())
        roots = [n for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names if a.name == "dynamarks_tf"]
        from_root = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "dynamarks_tf"
            for alias in node.names
        }
        assert not roots, f"{path} imports the package root"
        assert from_root <= set(ORDER), f"{path} imports public names from the package root"
        assert not [name for name in imported(path) if name.startswith("keras.src")], f"{path} uses private Keras"


@pytest.mark.parametrize("name", WITHOUT_TENSORFLOW)
def test_modules_that_run_without_tensorflow(name):
    run_python(
        f"""
        import sys
        sys.modules["tensorflow"] = sys.modules["keras"] = None
        import dynamarks_tf.{name}
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
        assert keras.saving.get_registered_object("dynamarks_tf>DynaMarkLayer") is dm.DynaMarkLayer
        """
    )
    run_python("import keras, dynamarks_tf; assert keras.saving.get_registered_object('dynamarks_tf>DynaMarkLayer')")


def test_public_names_are_there_and_unknown_ones_are_not():
    import dynamarks_tf as dm

    assert [name for name in dm.__all__ if getattr(dm, name) is None] == []
    assert set(dm.__all__) <= set(dir(dm))
    with pytest.raises(AttributeError, match="has no attribute 'watermark'"):
        _ = dm.watermark


@pytest.mark.parametrize("command", [["--help"], ["keygen", "--help"], ["verify", "--help"], ["--version"]])
def test_commands_without_a_model_do_not_load_tensorflow(command):
    run_python(
        f"""
        import sys
        from dynamarks_tf.cli import main
        assert main({command!r}) == 0
        assert not {{"keras", "tensorflow"}} & set(sys.modules)
        """
    )


def run_python(script):
    import textwrap

    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=PACKAGE.parent)
