"""The header that names a client in the log, and the headers that must never be logged."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.foreign_text import escaped

CLIENT_HEADER = "x-client-id"
LONGEST_NAME = 256  # characters of a client's name

_HEADER = re.compile(r"[a-z0-9][a-z0-9-]*")
_SECRET = re.compile(r"authorization|cookie|token|secret|password|api-?key|session|-bin$")


def check_client_header(name: str) -> str:
    """Returns the header's name in lower case, as gRPC has it.

    Raises:
        ArgumentError: this is no name of a header, or the header carries secrets, which a log must not hold.
    """
    lower = name.lower()
    if not _HEADER.fullmatch(lower):
        raise ArgumentError(f"`client_header` must be made of letters, digits and hyphens. Received: {name!r}")
    if _SECRET.search(lower):
        raise ArgumentError(
            f"The header {name!r} carries secrets, which must not be logged. Name one that holds the client's name, "
            f"set where the secret is checked, such as {CLIENT_HEADER!r}."
        )
    return lower


def read_client(headers: Iterable[tuple[str, str | bytes]], header: str) -> str | None:
    """Returns the client's name, `None` if the headers do not tell it.

    Control and format characters, and bytes of it that are no UTF-8, become escapes such as `\\udcff`.

    Args:
        headers: names and values, of HTTP headers or of gRPC metadata.
        header: the name of the header, in lower case.
    """
    names = [str(value).strip() for name, value in headers if name.lower() == header]
    return escaped(",".join(names))[:LONGEST_NAME] or None
