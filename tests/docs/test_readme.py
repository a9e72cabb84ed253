"""The links, files and targets that the README names exist; test_docs.py runs its code."""

import re
from pathlib import Path

import click
import pytest

from dynamarks_tf.cli.main import commands
from tests.helpers import ROOT

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_targets_of_links_exist(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize(
    "page", [Path("README.md"), *(path.relative_to(ROOT) for path in ROOT.glob("docs/*.md"))], ids=str
)
def test_files_of_the_project_that_a_page_names_exist(page):
    named = re.findall(
        r"(?<![\w/.-])(?:tests|benchmarks|examples|serving|docs|dynamarks_tf)/[\w/.-]+\.\w+", (ROOT / page).read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_command_has_an_example_in_its_help():
    context = click.Context(commands)
    for name in commands.list_commands(context):
        assert f"dynamarks {name}" in commands.get_command(context, name).help, name
