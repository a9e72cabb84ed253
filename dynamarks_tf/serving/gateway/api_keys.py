"""API keys of clients, kept as hashes only.

The file is text with one key per line, `NAME:SHA256`: the client's name and the SHA-256 of its key in hexadecimal.
Empty lines and lines that start with `#` are skipped. A client may have several keys, so that one can be replaced
without a gap.

    # dynamarks client keys, format 1
    alice:2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90

Keys must be random and long, because a plain hash does not protect a key that can be guessed. The command
`python -c "import secrets; print(secrets.token_urlsafe(32))"` makes one. `printf %s "$KEY" | sha256sum` makes its hash.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from dynamarks_tf.errors import ArgumentError

_LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._@-]{0,255}):(?P<digest>[0-9a-fA-F]{64})")


class ApiKeys:
    """The keys that are accepted.

    Args:
        digests: pairs of a client's name and the SHA-256 of its key.
        files: the file with the pairs, which is read again when it changes.
    """

    def __init__(self, digests: Iterable[tuple[str, bytes]], files: Sequence[Path] = ()) -> None:
        self._digests = list(digests)
        self.files = tuple(files)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ApiKeys:
        """Reads a key file.

        Raises:
            ArgumentError: the file cannot be read, is empty, or has a line of another form. The line is not shown,
                because it may be a key.
        """
        try:
            lines = Path(path).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ArgumentError(f"The key file {path} cannot be read: {error}") from error
        digests = []
        for number, line in enumerate(map(str.strip, lines), 1):
            if not line or line.startswith("#"):
                continue
            found = _LINE.fullmatch(line)
            if not found:
                raise ArgumentError(
                    f"{path}, line {number}, is not of the form NAME:SHA256, with a name of letters, digits and ._@- "
                    'and the 64 hexadecimal digits that `printf %s "$KEY" | sha256sum` prints.'
                )
            digests.append((found["name"], bytes.fromhex(found["digest"])))
        if not digests:
            raise ArgumentError(f"The key file {path} holds no key, so it admits no client. Add a line NAME:SHA256.")
        return cls(digests, [Path(path)])

    def reload(self) -> None:
        """Reads the file again. Keys that are no longer in it are refused from now on.

        Raises:
            ArgumentError: as for `load`; the keys stay as they were.
        """
        for path in self.files:
            self._digests = ApiKeys.load(path)._digests

    def owner(self, key: str) -> str | None:
        """Returns the name of the client that `key` belongs to, in a time that does not depend on the key."""
        digest = hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).digest()
        owner = None
        for name, known in self._digests:
            if hmac.compare_digest(digest, known):
                owner = name
        return owner
