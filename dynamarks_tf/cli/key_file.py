"""`dynamarks key`: encrypts key files, and decrypts them."""

from __future__ import annotations

from pathlib import Path

import click

from dynamarks_tf.cli.output import say
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.keys.passphrase_input import load_key, new_passphrase, passphrase_of


@click.group()
def key() -> None:
    """Encrypt a key file with a passphrase, or decrypt it.

    Commands that read a key file ask for the passphrase at a terminal, or take the first line of the file that
    DYNAMARKS_PASSPHRASE_FILE names. Keep a backup of the key file, and the passphrase apart from it: a forgotten
    passphrase is a lost key.

    \b
      dynamarks key encrypt acme.key
      dynamarks key decrypt acme.key
    """


@key.command()
@click.argument("path", metavar="KEY", type=click.Path(path_type=Path))
def encrypt(path: Path) -> None:
    """Encrypt the KEY file in its place, or change its passphrase.

    The disk may still hold the file as it was. `keygen --encrypt` makes a key that was never readable on it.
    """
    asked: list[str] = []

    def remembered() -> str:
        asked.append(passphrase_of(path))
        return asked[0]

    loaded = MarkKey.load(path, passphrase=remembered)
    loaded.save(path, passphrase=new_passphrase(ask=bool(asked)), overwrite=True)
    say(f"{path}: encrypted. Without the passphrase, key {loaded.key_id} is lost.")


@key.command()
@click.argument("path", metavar="KEY", type=click.Path(path_type=Path))
def decrypt(path: Path) -> None:
    """Write the KEY file in its place without encryption."""
    load_key(path).save(path, overwrite=True)
    say(f"{path}: not encrypted any more")
