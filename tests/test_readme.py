"""The README leads somewhere; tests/test_docs.py runs its code."""

import re
from pathlib import Path

import click
import pytest

from dynamarks_tf.cli import commands

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_every_command_has_an_example_in_its_help():
    context = click.Context(commands)
    for name in commands.list_commands(context):
        assert f"dynamarks {name}" in commands.get_command(context, name).help, name


def test_make_targets_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
