"""The check of every file that this package reads: its format and its version."""

from __future__ import annotations

from typing import Any

from dynamarks_tf._support import strict_json
from dynamarks_tf.errors import DynaMarksError, FormatError


def check_format(
    content: Any,
    name: str,
    version: int,
    source: str,
    what: str,
    *,
    schema: str | None = None,
    error: type[DynaMarksError] = FormatError,
) -> dict[str, Any]:
    """Returns JSON content if its format and version are the expected ones.

    Args:
        content: plain values from JSON.
        name: the required entry `format`.
        version: the required entry `version`.
        source: where the content comes from, for messages.
        what: name of such content, with an article, such as "a test plan".
        schema: name of the schema that all other entries must follow.
        error: type of the error to raise.

    Raises:
        DynaMarksError: of type `error`: the content has another format, or a version that this release does not read;
            or it does not follow the schema.
    """
    if not isinstance(content, dict) or content.get("format") != name:
        raise error(f"{source} is not {what}: expected a JSON object with format={name!r}.")
    if type(content.get("version")) is not int or content["version"] != version:
        raise error(
            f"{source} is {what} of version {content.get('version')!r}; this release reads version {version}. Use the "
            "release of dynamarks_tf that wrote it, or a newer one."
        )
    if schema is not None:
        strict_json.check(content, schema, source, error=error)
    return content
