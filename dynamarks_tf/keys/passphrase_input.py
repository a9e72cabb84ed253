"""Where commands get passphrases from: a file that the environment names, or somebody at the terminal.

Never from an argument, which other users of the machine can see.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
from pathlib import Path

from dynamarks_tf.errors import ArgumentError, KeyFileError
from dynamarks_tf.keys import passphrases
from dynamarks_tf.keys.key import MarkKey

VARIABLE = passphrases.VARIABLE
_LARGEST = 4096  # bytes of a file with a passphrase
_OTHERWISE = f"Run the command at a terminal, or put the passphrase into a file and the file's path into {VARIABLE}."


def load_key(path: str | os.PathLike[str]) -> MarkKey:
    """Reads a key file, and if it is encrypted, its passphrase.

    Raises:
        KeyFileError: the file cannot be used, or there is nobody to ask for its passphrase.
        ArgumentError: the file that the environment names cannot be used.
    """
    return MarkKey.load(path, passphrase=lambda: passphrase_of(path))


def passphrase_of(path: str | os.PathLike[str]) -> str:
    """The passphrase of an encrypted key file.

    Raises:
        KeyFileError: there is nobody to ask for it.
        ArgumentError: the file that the environment names cannot be used.
    """
    known = _of_environment()
    if known is None and not sys.stdin.isatty():
        raise KeyFileError(f"{os.fspath(path)} is encrypted, and nobody can be asked for its passphrase. {_OTHERWISE}")
    return getpass.getpass(f"Passphrase of {os.fspath(path)}: ") if known is None else known


def new_passphrase(*, ask: bool = False) -> str:
    """A passphrase to encrypt with: that of the environment, or asked for twice.

    Args:
        ask: whether to leave the environment aside, since it names the passphrase until now.

    Raises:
        ArgumentError: it is too short, was not repeated, or there is nobody to ask.
    """
    given = None if ask else _of_environment()
    if given is None:
        if not sys.stdin.isatty():
            raise ArgumentError(f"Nobody can be asked for a new passphrase. {_OTHERWISE}")
        given = getpass.getpass("New passphrase: ")
        passphrases.check(given)
        if getpass.getpass("The same again: ") != given:
            raise ArgumentError("The two passphrases differ. Nothing was written; try again.")
    passphrases.check(given)
    return given


def _of_environment() -> str | None:
    """The passphrase in the file that the environment names: its first line."""
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    try:
        with open(name, "rb") as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read(_LARGEST + 1)
        lines = data.decode().splitlines()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ArgumentError(f"Cannot read the passphrase file that {VARIABLE} names: {why}.") from None
    if len(data) > _LARGEST or not lines:
        raise ArgumentError(f"{VARIABLE} must name a file whose first line is the passphrase.")
    if os.name == "posix" and stat.S_ISREG(mode) and mode & 0o077:
        raise ArgumentError(f"Others can read the passphrase file that {VARIABLE} names. Run: chmod 600 {Path(name)}")
    return lines[0]
