"""The one reader of JSON that others wrote: UTF-8, no member twice, no number that is none, and closed formats.

What a file may hold stands in JSON Schemas, `schemas/*.json`, that anybody's validator understands. This package needs
only a part of that language, and so no validator but the one below.
"""

from __future__ import annotations

import collections
import datetime
import functools
import json
import math
import re
from importlib import resources
from typing import Any, NoReturn

from dynamarks_tf._support.json_bounds import MOST_VALUES, check_json
from dynamarks_tf.errors import DynaMarksError, FormatError
from dynamarks_tf.foreign_text import shown

_MOST_DIGITS = 40  # of a whole number; a float needs no more
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


class JsonError(ValueError):
    """A text is no JSON, or JSON that different readers would understand differently; the message says why."""


class JsonBoundsError(JsonError):
    """A text holds more values than expected, or is nested too deep."""


def parse(data: bytes | str, *, numbers_only: bool = True, most_values: int = MOST_VALUES) -> Any:
    """Reads JSON strictly.

    Args:
        data: the text; bytes are UTF-8.
        numbers_only: whether NaN, infinity and numbers too large for a float are refused. Model servers write them.
        most_values: the largest number of values, counted before anything is parsed.

    Raises:
        JsonError: it is no JSON, holds a member twice or too many values, or is nested too deep.
    """
    strict: dict[str, Any] = {"parse_constant": _no_number, "parse_int": _int, "parse_float": _float}
    try:
        text = data if isinstance(data, str) else str(data, "utf-8")
        _check_bounds(text, most_values)
        return json.loads(text, object_pairs_hook=_unique, **(strict if numbers_only else {}))
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"it is no JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
    except JsonError:
        raise
    except RecursionError:
        raise JsonBoundsError("it is nested too deep") from None
    except ValueError:  # the digits of a whole number, of which Python limits the number
        raise JsonError("it holds a number that is too large") from None


def read_json(
    data: bytes,
    source: str,
    what: str,
    *,
    schema: str | None = None,
    most_values: int = MOST_VALUES,
    error: type[DynaMarksError] = FormatError,
) -> Any:
    """Reads a file of this package.

    Args:
        data: its content.
        source: where it comes from, for messages.
        what: name of such content, with an article, such as "a test plan".
        schema: name of the schema that it must follow; `check_format` names format and version in other words first.
        most_values: the largest number of values.
        error: type of the error to raise.

    Raises:
        DynaMarksError: of type `error`: it does not.
    """
    try:
        content = parse(data, most_values=most_values)
    except JsonError as problem:
        raise error(f"{source} cannot be read as {what}: {problem}.") from problem
    if schema is not None:
        check(content, schema, source, error=error)
    return content


def check(content: Any, schema: str, source: str, *, error: type[DynaMarksError] = FormatError) -> None:
    """Checks JSON content against a schema.

    Args:
        content: plain values from JSON.
        schema: name of the schema, such as "plan".
        source: where the content comes from, for messages.
        error: type of the error to raise.

    Raises:
        DynaMarksError: of type `error`: it does not follow the schema; the message names the first entry that does not.
    """
    if (problem := problem_of(content, schema)) is not None:
        raise error(f"{source} is damaged: {problem}.")


def problem_of(content: Any, schema: str) -> str | None:
    """In what JSON content does not follow a schema; `None` if it does."""
    return _problem(content, _document(f"{schema}.json"), f"{schema}.json", "")


def is_time(text: object) -> bool:
    """Whether this is a date or time in ISO 8601, as files of this package hold them."""
    if _problem(text, {"$ref": "common.json#/$defs/time"}, "common.json", "") is not None:
        return False
    try:
        return bool(instant(str(text)))
    except ValueError:
        return False


def instant(text: str) -> datetime.datetime:
    """The moment that a date or time of a file stands for; a date alone is its first moment in UTC.

    Raises:
        ValueError: there is no such date or time.
    """
    date, _, time = text.partition("T")
    if not time:
        return datetime.datetime.fromisoformat(date).replace(tzinfo=datetime.timezone.utc)
    clock, sign, zone = re.split("([Z+-])", time, maxsplit=1)
    whole, _, fraction = clock.partition(".")
    offset = "+00:00" if sign == "Z" else sign + zone
    return datetime.datetime.fromisoformat(
        f"{date}T{whole}.{fraction[:6]:0<6}{offset}" if fraction else f"{date}T{whole}{offset}"
    )


def _check_bounds(text: str, most_values: int) -> None:
    try:
        check_json(text, most_values)
    except ValueError as error:
        raise JsonBoundsError(str(error)) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = collections.Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise JsonError(f"it holds the member {shown(ascii(twice), 60)} twice")
    return members


def _no_number(name: str) -> NoReturn:
    raise JsonError(f"it holds {name}, which is no number of JSON")


def _int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise JsonError(f"it holds a whole number of {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise JsonError("it holds a number that is too large")
    return value


@functools.cache
def _document(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((resources.files(__package__) / "schemas" / name).read_bytes())
    return content


def _resolved(reference: str, file: str) -> tuple[dict[str, Any], str]:
    name, _, pointer = reference.partition("#")
    found, file = _document(name or file), name or file
    for part in pointer.split("/")[1:]:
        found = found[part]
    return found, file


def _problem(value: Any, schema: dict[str, Any], file: str, path: str) -> str | None:
    if "$ref" in schema:
        return _problem(value, *_resolved(schema["$ref"], file), path)
    if "anyOf" in schema:
        problems = [_problem(value, each, file, path) for each in schema["anyOf"]]
        return None if None in problems else problems[0]
    if not _fits(value, schema):
        wanted = schema.get("description") or _in_words(schema)
        return f"its entry {path} is {shown(repr(value), 80)}, not {wanted}" if path else f"it is not {wanted}"
    if isinstance(value, dict):
        return _problem_of_members(value, schema, file, path)
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        rules = [*first, *[schema.get("items", {})] * (len(value) - len(first))]
        places = enumerate(zip(value, rules, strict=False))
        return next(filter(None, (_problem(each, rule, file, f"{path}[{n}]") for n, (each, rule) in places)), None)
    return None


def _problem_of_members(value: dict[str, Any], schema: dict[str, Any], file: str, path: str) -> str | None:
    rules, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"its entry {_joined(path, name)} is missing"
    for name, member in value.items():
        place = _joined(path, name)
        if name not in rules and (others is False or _problem(name, schema.get("propertyNames", {}), file, place)):
            return f"it has an unknown entry {place}"
        if (problem := _problem(member, rules.get(name, others), file, place)) is not None:
            return problem
    return None


def _joined(path: str, name: str) -> str:
    return f"{path}.{shown(name, 60)}".lstrip(".")


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value by itself is what a schema says; its members are not looked at."""
    if "type" in schema and (type(value) not in _TYPES[schema["type"]]):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    if "enum" in schema and not any(_same(value, each) for each in schema["enum"]):
        return False
    if isinstance(value, (str, list)):
        limits = ("minLength", "maxLength") if isinstance(value, str) else ("minItems", "maxItems")
        if not schema.get(limits[0], 0) <= len(value) <= schema.get(limits[1], math.inf):
            return False
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            return False
        return "not" not in schema or not re.search(schema["not"]["pattern"], value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return bool(
            schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
            and schema.get("exclusiveMinimum", -math.inf) < value
            and value < schema.get("exclusiveMaximum", math.inf)
        )
    return True


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _in_words(schema: dict[str, Any]) -> str:
    """What a schema without a description asks for."""
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    if schema["type"] == "array":
        most = schema.get("maxItems", math.inf)
        return f"a list of {schema.get('minItems', 0)} to {most} entries" if most < math.inf else "a list"
    limits = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "above", "exclusiveMaximum": "below"}
    words = {"object": "an object", "integer": "a whole number", "boolean": "true or false"}
    kind = words.get(schema["type"], f"a {schema['type']}")
    return (
        f"{kind} {' and '.join(f'{word} {schema[name]:,}' for name, word in limits.items() if name in schema)}".rstrip()
    )
