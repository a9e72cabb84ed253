"""The check that every file of this package goes through when it is read: what it is, and of which version."""

from __future__ import annotations

from typing import Any

from dynamarks_tf.errors import DynaMarksError, FormatError


def check_format(
    content: Any,
    name: str,
    version: int,
    source: str,
    what: str,
    *,
    error: type[DynaMarksError] = FormatError,
) -> dict[str, Any]:
    """Returns JSON content that says it is what is expected.

    Args:
        content: plain values from JSON.
        name: the entry `format` that it must have.
        version: the entry `version` that it must have.
        source: where it comes from, for messages.
        what: what it is called, with an article, such as "a test plan".
        error: what to raise.

    Raises:
        DynaMarksError: of type `error`: it is something else, or of a version that this release does not read.
    """
    if not isinstance(content, dict) or content.get("format") != name:
        raise error(f"{source} is not {what}: expected a JSON object with format={name!r}.")
    if type(content.get("version")) is not int or content["version"] != version:
        raise error(
            f"{source} is {what} of version {content.get('version')!r}; this release reads version {version}. Use the "
            "release of dynamarks_tf that wrote it, or a newer one."
        )
    return content
