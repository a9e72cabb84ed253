"""`dynamarks client`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from dynamarks_tf.cli.output import say

_FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("clients"),
    show_default=True,
    help="Where clients are kept; its folder `public` is the proxy's --clients.",
)


@click.group()
def client() -> None:
    """Make and revoke the tokens of the proxy's clients.

    \b
      dynamarks client add alice --days 90
      dynamarks client revoke alice
    """


@client.command()
@click.argument("name")
@click.option("--days", default=90.0, show_default=True, help="How long the token is valid.")
@_FOLDER
def add(name: str, days: float, folder: Path) -> None:
    """Print a new token for a client, who sends it with each request.

    \b
      curl -H "Authorization: Bearer $TOKEN" ...       over REST
      metadata=[("authorization", f"Bearer {token}")]  over gRPC
    """
    from dynamarks_tf.serving.gateway import clients

    say(clients.add(folder, name, days=days))


@client.command()
@click.argument("name")
@click.option("--token", help="Only the token with this number, as `list` shows it.")
@_FOLDER
def revoke(name: str, token: str | None, folder: Path) -> None:
    """Refuse a client's tokens from now on, also on open connections."""
    from dynamarks_tf.serving.gateway import clients

    say(f"revoked {clients.revoke(folder, name, token)} valid tokens of {name}")


@client.command("list")
@_FOLDER
def list_tokens(folder: Path) -> None:
    """Show all tokens: number, client, last day, state."""
    from dynamarks_tf.serving.gateway import clients

    for token in clients.load(folder):
        state = "revoked" if token.is_revoked else "ended" if token.ends < time.time() else "valid"
        say(f"{token.number}  {time.strftime('%Y-%m-%d', time.gmtime(token.ends))}  {state:7}  {token.name}")
