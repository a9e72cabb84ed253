"""`dynamarks completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_DYNAMARKS_COMPLETE"  # the one that Click looks for


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands and options in SHELL.

    \b
      dynamarks completion bash >> ~/.bashrc
      dynamarks completion zsh >> ~/.zshrc
      dynamarks completion fish > ~/.config/fish/completions/dynamarks.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None  # Click knows the shells above
    click.echo(kind(click.get_current_context().find_root().command, {}, "dynamarks", _VARIABLE).source())
