"""The glossary lists each term once, in alphabetical order, in short sentences."""

import re

import pytest

from tests.helpers import ROOT

ROWS = [
    re.split(r"(?<!\\)\|", line.strip("|\n "))
    for line in (ROOT / "docs" / "glossary.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| term ")
]
TERMS = [row[0].strip() for row in ROWS]


def test_terms_are_alphabetical_and_unique():
    assert len(TERMS) > 50
    assert sorted(set(TERMS), key=lambda term: re.sub("[-_]", " ", term.lower())) == TERMS


@pytest.mark.parametrize("row", ROWS, ids=TERMS)
def test_a_definition_has_one_or_two_short_sentences(row):
    _, _, meaning = row
    sentences = re.split(r"(?<=\.) (?=[A-Z])", meaning.strip())
    assert sentences[-1].endswith(".")
    assert len(sentences) <= 2
    assert all(len(sentence.split()) <= 25 for sentence in sentences)
