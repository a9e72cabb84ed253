"""JSON of others: what is refused, and that our validator and `jsonschema` read the published schemas alike."""

import copy
import json
import random
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from dynamarks_tf._support import strict_json
from dynamarks_tf._support.strict_json import JsonError, parse, problem_of
from dynamarks_tf.case import transcript_chain
from dynamarks_tf.errors import KeyFileError
from dynamarks_tf.keys.key import MarkKey
from tests.helpers import ROOT
from tests.helpers.documents import DOCUMENTS

FOLDER = ROOT / "docs" / "schemas"
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
REGISTRY = Registry().with_resources((f"{name}.json", Resource.from_contents(each)) for name, each in SCHEMAS.items())
KEYWORDS = {
    *("$schema", "$id", "$ref", "$defs", "title", "description", "type", "const", "enum", "anyOf", "not", "pattern"),
    *("minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("properties", "required", "additionalProperties", "propertyNames", "items", "prefixItems"),
}
WRONG = (None, True, 0, -1, 7, 10**30, 1.5, "", "x", "a\nb", "\x1b[2J", "\u202e", "Z" * 7000, [], [[]], {}, {"a": 1})


def places(value, path=()):
    """Where the members of a document stand."""
    for name in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, name)
        yield from places(value[name], (*path, name))


def variants(document, count=120):
    """The document with one of its members replaced, left out, or joined by another; chosen by a fixed seed."""
    changes = [("replaced", value) for value in WRONG] + [("left out", None), ("joined", None)]
    chosen = [(path, *change) for path in places(document) for change in changes]
    for path, kind, value in random.Random(0).sample(chosen, min(count, len(chosen))):
        found = part = copy.deepcopy(document)
        for name in path[:-1]:
            part = part[name]
        if kind == "left out":
            del part[path[-1]]
        elif kind == "replaced":
            part[path[-1]] = value
        elif isinstance(part, dict):
            part["more"] = 1
        yield found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_our_validator_and_another_accept_and_refuse_the_same(name):
    validator = Draft202012Validator(SCHEMAS[name], registry=REGISTRY)
    document = DOCUMENTS[name]
    assert problem_of(document, name) is None
    validator.validate(document)
    refused = 0
    for variant in variants(document):
        problem = problem_of(variant, name)
        assert (problem is None) == validator.is_valid(variant), (variant, problem)
        refused += problem is not None
    assert refused > 80


def test_published_schemas_are_valid_closed_and_those_that_loaders_use():
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in SCHEMAS}
    assert FOLDER.resolve() == Path(strict_json.__file__).parent / "schemas"
    assert {"common", *DOCUMENTS} == set(SCHEMAS)
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
        waiting = [schema, *schema.get("$defs", {}).values()]
        while waiting:
            part = waiting.pop()
            assert set(part) <= KEYWORDS, part  # ours knows no others
            assert part.get("type") != "object" or "additionalProperties" in part
            waiting += part.get("properties", {}).values()
            waiting += [*part.get("anyOf", ()), *part.get("prefixItems", ()), *filter(None, [part.get("items")])]
            waiting += [part["additionalProperties"]] if part.get("additionalProperties") else []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"a": 1, "a": 2}', "it holds the member 'a' twice"),
        (b'{"a": [{"b\\u001b": 1, "b\\u001b": 1}]}', r"it holds the member 'b\x1b' twice"),
        (b"[NaN]", "it holds NaN, which is no number of JSON"),
        (b"-Infinity", "it holds -Infinity"),
        (b"[1e999]", "it holds a number that is too large"),
        (b"1" * 10**6, "it holds a whole number of 1000000 digits"),
        (b"[" * 10**5, "it is nested more than 500 levels deep"),
        (b'{"a":' * 10**5, "it is nested more than 500 levels deep"),
        (b'"\xff"', "it is not UTF-8 at byte 1"),
        ('{"a": 1}'.encode("utf-16"), "it is not UTF-8 at byte 0"),
        (b"", "it is no JSON: Expecting value in line 1, column 1"),
        (b"{} {}", "it is no JSON: Extra data"),
        (b'"a\nb"', "it is no JSON: Invalid control character"),
    ],
)
def test_json_that_readers_would_understand_differently_is_refused(text, problem):
    with pytest.raises(JsonError) as caught:
        parse(text)
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 200


def test_what_model_servers_write_is_read_but_for_a_member_twice():
    assert parse(b"[Infinity, 1e999]", numbers_only=False) == [float("inf")] * 2
    with pytest.raises(JsonError, match="twice"):
        parse(b'{"a": NaN, "a": 1}', numbers_only=False)
    with pytest.raises(JsonError, match="too large"):
        parse(b"1" * 10**6, numbers_only=False)


@pytest.mark.parametrize("name", ["owner", "created", "secret", "commitment", "client", "more"])
def test_a_key_file_with_a_wrong_entry_is_refused_and_not_quoted(name):
    for value in WRONG:
        if name == "client" and value == "x":
            continue
        with pytest.raises(KeyFileError, match="is damaged") as caught:
            MarkKey.from_json(json.dumps({**DOCUMENTS["key"], name: value}).encode(), "acme.key")
        assert "Z" * 8 not in str(caught.value)


def test_transcripts_of_earlier_releases_are_refused_by_their_version():
    old = json.dumps({"format": transcript_chain.FORMAT, "version": 4}).encode()
    with pytest.raises(
        transcript_chain.TranscriptError, match="is the transcript of a test of version 4; this release"
    ):
        transcript_chain.read_head(old, "case.zip.partial/transcript.json")
