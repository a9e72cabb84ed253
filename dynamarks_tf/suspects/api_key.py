"""The API key that a served suspect requires of its clients. It comes from the environment, and is never shown."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import NoReturn

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.foreign_text import HIDDEN, keep_secret
from dynamarks_tf.suspects.addresses import is_loopback

VARIABLE = "DYNAMARKS_API_KEY"


@dataclasses.dataclass(frozen=True)
class ApiKey:
    """A client's key.

    Attributes:
        secret: the key; `repr` leaves it out.
        header: name of the HTTP header, or gRPC metadata entry, that carries the bare key. `None`:
            `Authorization: Bearer KEY`.
    """

    secret: str = dataclasses.field(repr=False)
    header: str | None = None

    def __post_init__(self) -> None:
        keep_secret(self.secret)

    def __reduce__(self) -> NoReturn:
        raise TypeError("An ApiKey is not pickled, so that it is never copied unnoticed.")

    @classmethod
    def from_environment(cls, header: str | None = None) -> ApiKey | None:
        """Reads the variable DYNAMARKS_API_KEY.

        Args:
            header: name of the header; `None` for `Authorization`.

        Returns:
            The key; `None` if the variable is not set.

        Raises:
            ArgumentError: the key cannot be sent in a header, or `header` is named and there is no key.
        """
        secret = os.environ.get(VARIABLE, "").strip()
        if header is not None and not re.fullmatch(r"[A-Za-z0-9-]+", header):
            raise ArgumentError(f"{header!r} is not the name of a header, such as X-Api-Key.")
        if not secret:
            if header is not None:
                raise ArgumentError(f"The header {header} must carry a key; set the variable {VARIABLE} to it.")
            return None
        if not re.fullmatch(r"[\x21-\x7e]+", secret):
            raise ArgumentError(f"The key in {VARIABLE} holds characters that no header can carry, such as spaces.")
        return cls(secret, header)

    def entry(self) -> tuple[str, str]:
        """Name and value of the header."""
        return ("Authorization", f"Bearer {self.secret}") if self.header is None else (self.header, self.secret)

    def check_is_private(self, scheme: str, host: str, address: str) -> None:
        """Checks that the key would not cross a network unencrypted, nor stand in a report.

        Args:
            scheme: of the address.
            host: the server.
            address: all of it, which stands in plan and report.

        Raises:
            ArgumentError: the connection would not be encrypted, and leads to another machine; or the address holds
                the key.
        """
        if self.secret in address:
            raise ArgumentError(
                f"The address of the suspect holds the key in {VARIABLE}, and addresses end up in reports. Leave it "
                "out: the key is sent in a header."
            )
        if scheme in ("http", "grpc") and not is_loopback(host):
            raise ArgumentError(
                f"The key in {VARIABLE} would go to {host} unencrypted. Use {scheme}s://, or a tunnel that ends on "
                "this machine; unset the variable if the server requires no key."
            )


def hide(text: str, api_key: ApiKey | None) -> str:
    """Blanks a key out of a text from a server."""
    return text if api_key is None else text.replace(api_key.secret, HIDDEN)
