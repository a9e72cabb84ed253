"""The key that a served suspect asks its clients for. It comes from the environment, and is never shown."""

from __future__ import annotations

import dataclasses
import os
import re

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.suspects.addresses import is_loopback

VARIABLE = "DYNAMARKS_API_KEY"
_HIDDEN = "***"


@dataclasses.dataclass(frozen=True)
class ApiKey:
    """A client's key.

    Attributes:
        secret: the key; not in the representation of this object.
        header: name of the HTTP header, or gRPC metadata entry, that carries it as it is. `None`:
            `Authorization: Bearer KEY`.
    """

    secret: str = dataclasses.field(repr=False)
    header: str | None = None

    @classmethod
    def from_environment(cls, header: str | None = None) -> ApiKey | None:
        """Reads the variable DYNAMARKS_API_KEY.

        Args:
            header: name of the header, if it is not the usual one.

        Returns:
            The key; `None` if the variable is not set.

        Raises:
            ArgumentError: it cannot be sent in a header, or `header` is named and there is no key.
        """
        secret = os.environ.get(VARIABLE, "").strip()
        if header is not None and not re.fullmatch(r"[A-Za-z0-9-]+", header):
            raise ArgumentError(f"{header!r} is no name of a header, such as X-Api-Key.")
        if not secret:
            if header is not None:
                raise ArgumentError(f"The header {header} is to carry a key; set the variable {VARIABLE} to it.")
            return None
        if not re.fullmatch(r"[\x21-\x7e]+", secret):
            raise ArgumentError(f"The key in {VARIABLE} holds characters that no header can carry, such as spaces.")
        return cls(secret, header)

    def entry(self) -> tuple[str, str]:
        """Name and value of the header."""
        return ("Authorization", f"Bearer {self.secret}") if self.header is None else (self.header, self.secret)

    def check_unread(self, scheme: str, host: str) -> None:
        """Checks that nobody on the way can read the key.

        Raises:
            ArgumentError: the connection would not be encrypted, and leads to another machine.
        """
        if scheme in ("http", "grpc") and not is_loopback(host):
            raise ArgumentError(
                f"The key in {VARIABLE} would go to {host} unencrypted. Ask by {scheme}s://, or through a tunnel that "
                "ends on this machine; unset the variable if the server asks for no key."
            )


def hide(text: str, api_key: ApiKey | None) -> str:
    """Blanks a key out of what a server said."""
    return text if api_key is None else text.replace(api_key.secret, _HIDDEN)
