"""Codes that show that a transcript was written with the owner's key: HMAC-SHA256 with a key derived from it."""

from __future__ import annotations

import hmac
from typing import NoReturn

from dynamarks_tf.keys.key import MarkKey

_LABEL = "transcript/hmac-sha256"


class Seal:
    """Makes and checks the codes of one key.

    Args:
        key: the owner's key. The code of nothing else follows from a code, nor does the key.
    """

    def __init__(self, key: MarkKey) -> None:
        self.__key = key.derive(_LABEL, 32)

    def __call__(self, digest: str) -> str:
        """The code over a digest, 64 hexadecimal digits."""
        return hmac.new(self.__key, digest.encode(), "sha256").hexdigest()

    def __repr__(self) -> str:
        return "<Seal>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A Seal is not pickled, so that its secret is never copied unnoticed.")
