"""The wheel: its files, its metadata, and that it runs without the rest of the repository."""

import email
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile

import pytest
import setuptools
from packaging.metadata import Metadata
from packaging.requirements import Requirement

from dynamarks_tf._version import __version__
from tests.helpers import ROOT

NOT_TRACKED = ".*", "build", "dist", "*.egg-info", "__pycache__", "site", "dynamarks-demo*"


def pip(*arguments):
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*NOT_TRACKED))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source"))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"dynamarks_tf-{__version__}.dist-info/METADATA").decode()


def test_the_wheel_holds_the_package_only(wheel):
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [path for path in (ROOT / "dynamarks_tf").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert found == {str(path.relative_to(ROOT)) for path in files}
    assert "dynamarks_tf/py.typed" in found
    subprocess.run([sys.executable, "-m", "check_wheel_contents", str(wheel)], check=True)


def test_the_metadata_is_valid_and_lists_the_requirements(metadata):
    facts = Metadata.from_email(metadata, validate=True)
    assert facts.name == "dynamarks_tf"
    assert str(facts.version) == __version__
    assert all(f"3.{minor}" in facts.requires_python for minor in (10, 11, 12, 13))
    assert "3.9" not in facts.requires_python
    assert facts.description_content_type.startswith("text/markdown")
    assert email.message_from_string(metadata).get_payload().startswith("# dynamarks_tf")
    assert {"demo", "docs", "study", "test"} <= {*facts.provides_extra}
    needed = {Requirement(str(one)).name for one in facts.requires_dist if one.marker is None}
    assert {"tensorflow", "keras", "cryptography", "click"} <= needed
    assert not {"pytest", "mkdocs", "matplotlib", "scikit-learn"} & needed


def test_the_readme_renders_where_the_repository_is_not(wheel, metadata):
    assert re.findall(r"\]\((?!https?://)[^)]*\)", metadata) == []  # no link that leads nowhere
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(wheel)], check=True)


def test_the_installed_wheel_runs_by_either_name(wheel, tmp_path):
    pip("install", "--no-deps", "--target", str(tmp_path / "here"), str(wheel))
    assert {path.name for path in (tmp_path / "here").iterdir()} == {
        "bin",
        "dynamarks_tf",
        f"dynamarks_tf-{__version__}.dist-info",
    }

    def printed(*program):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "here")}
        return subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    as_module, as_script = [sys.executable, "-m", "dynamarks_tf"], [str(tmp_path / "here" / "bin" / "dynamarks")]
    for words in (["--version"], ["--help"], ["verify", "--help"]):
        assert printed(*as_module, *words) == printed(*as_script, *words)
    assert printed(*as_script, "--version").split()[-1] == __version__
    where = printed(sys.executable, "-c", "import dynamarks_tf; print(dynamarks_tf.__file__)")
    assert where.startswith(str(tmp_path / "here"))


def test_the_links_of_the_package_page_lead_into_the_repository_that_the_release_names(monkeypatch):
    facts, home = {}, "https://git.example.com/acme/dynamarks_tf"
    monkeypatch.setattr(setuptools, "setup", lambda **given: facts.update(given))
    monkeypatch.setenv("DYNAMARKS_HOMEPAGE", home + "/")
    runpy.run_path(str(ROOT / "setup.py"))
    assert facts["project_urls"]["Source"] == home
    assert {"Documentation", "Changelog", "Issues", "Security"} <= facts["project_urls"].keys()
    links = [*facts["project_urls"].values(), *re.findall(r"\]\(([^)#]*)", facts["long_description"])]
    assert all(link.startswith("https://") for link in links)
    named = [re.fullmatch(rf"{home}/(?:blob|raw)/v{__version__}/(.+)", link) for link in links]
    files = [found[1] for found in named if found]
    assert {"docs/concepts.svg", "docs/report.png", "CHANGELOG.md", "SECURITY.md", "docs/index.md"} <= {*files}
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_version_changelog_and_citation_name_the_same_release():
    """Between releases, the version ends in `.dev0`, and the changelog begins with what is unreleased."""
    headings = re.findall(r"^## (\S+)(?: - (\d{4}-\d\d-\d\d))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = dict(re.findall(r"^(version|date-released): (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    assert (headings[0][0] == "Unreleased") == __version__.endswith(".dev0")
    releases = [heading for heading in headings if heading[0] != "Unreleased"]
    assert (cited["version"], cited["date-released"]) == releases[0]
    if not __version__.endswith(".dev0"):
        assert releases[0][0] == __version__
