"""Hand-written pages and help texts keep the rules of prose: short sentences that name their subject, short pages.

Headings, code and tables are no sentences; the words of tables count for the length of a page.
"""

import re

import click
import pytest
import yaml

from dynamarks_tf.cli.main import MODULE_OF, commands
from tests.helpers import ROOT

MOST_WORDS = 25  # in a sentence
LONGEST_PAGE = 1500
WRITTEN_BY_STUDIES = {"baselines", "calibration", "class-choice", "frontier", "robustness"}
FORMATS_AND_DEFENSES = re.compile("bundle-format|chain-of-trust|conformance|key-format|secrecy|security")
SERVING = ROOT / "serving" / "README.md"  # the guide serving.md
PAGES = [ROOT / "README.md", SERVING] + [
    page
    for page in sorted((ROOT / "docs").glob("*.md"))
    if page.stem not in WRITTEN_BY_STUDIES and not FORMATS_AND_DEFENSES.match(page.stem)
]
UNNAMED = re.compile(r"(?i:\W*(?:who|whoever|what)\b)|.*\b(?:[Hh]e|[Hh]im|[Hh]is)\b")
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def sentences(text):
    """The sentences of a page, without markup; each item of a list starts a new one."""
    for block in re.split(r"\n\s*\n", without_code(text)):
        if not re.match(r" {4}|\||#|---", block):
            for item in re.split(r"^\s*(?:[-*>]|\d+\.)\s+", block, flags=re.MULTILINE):
                plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", item.replace("*", ""))
                plain = re.sub(r"`[^`]*`|\$[^$]*\$", "X", " ".join(plain.split()))
                yield from (found for found in re.split(r"(?<=[.!?])[)\"]?\s+(?=[\"(A-Z\d])", plain) if found)


def without_code(text):
    """A page without code, displayed formulas, comments, and tables that a study writes."""
    generated = r"^<!-- (?:table|rules):.*?^<!-- end of \w+ -->$"
    return re.sub(rf"{generated}|^ *```.*?^ *```$|^\$\$$.*?^\$\$$|<!--.*?-->", "", text, flags=re.DOTALL | re.MULTILINE)


@pages
def test_sentences_are_short(page):
    assert [found for found in sentences(page.read_text()) if len(found.split()) > MOST_WORDS] == []


@pages
def test_sentences_name_their_subject(page):
    """None starts with who or what, and none calls an attacker, a client or a reader a man."""
    assert [found for found in sentences(page.read_text()) if UNNAMED.match(found)] == []


def pages_under(heading):
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text().split("\nmarkdown_extensions:")[0])["nav"]
    (section,) = (entry[heading] for entry in nav if heading in entry)
    return [name for entry in section for name in entry.values()]


@pytest.mark.parametrize("name", pages_under("Guides"))
def test_guides_end_with_what_can_go_wrong(name):
    page = SERVING if name == "serving.md" else ROOT / "docs" / name
    headings = re.findall("^## (.*)$", without_code(page.read_text()), re.MULTILINE)
    assert headings[-1] == "What can go wrong"


def test_pages_can_be_read_in_one_sitting():
    """All but those of the reference."""
    looked_up = {"glossary.md", *pages_under("Reference")}
    read = {page.name: re.sub(r"\$[^$]*\$", "X", without_code(page.read_text())) for page in PAGES}
    words = {name: len(text.split()) for name, text in read.items() if name not in looked_up}
    assert {name: count for name, count in words.items() if count > LONGEST_PAGE} == {}


@pytest.mark.parametrize("name", MODULE_OF)
def test_help_texts_keep_both_rules(name):
    command = commands.get_command(click.Context(commands), name)
    examples = r"\x08\n.*?(?:\n\n|\Z)"
    texts = [re.sub(examples, "", command.help, flags=re.DOTALL)]
    texts += [option.help or "" for option in command.params if isinstance(option, click.Option)]
    found = [sentence for text in texts for sentence in sentences(text)]
    assert found
    assert [one for one in found if UNNAMED.match(one) or len(one.split()) > MOST_WORDS] == []


def test_the_rules_find_what_they_are_for():
    long = "word " * MOST_WORDS
    text = f"# {long}\n\nOne. Who asks, finds.\n- It is his. Whatever.\n\n| {long} |\n\n    {long}\n\n{long}end, `a b`."
    found = [*sentences(text)]
    assert found[:4] == ["One.", "Who asks, finds.", "It is his.", "Whatever."]
    assert [len(sentence.split()) for sentence in found[4:]] == [MOST_WORDS + 2]
