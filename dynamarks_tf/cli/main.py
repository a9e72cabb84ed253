"""The command `dynamarks`: each subcommand turns its arguments into one call of an importable function."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from dynamarks_tf import foreign_text
from dynamarks_tf._version import __version__
from dynamarks_tf.cli.output import say
from dynamarks_tf.errors import DynaMarksError

EXIT_ERROR = 2
DEBUG_VARIABLE = "DYNAMARKS_DEBUG"

# Which module of this folder has which command, in the order in which one needs them.
MODULE_OF = {
    "keygen": "key",
    "key": "key_file",
    "commit": "key",
    "timestamp": "timestamp",
    "mark": "mark",
    "export": "export",
    "serve": "serve",
    "proxy": "proxy",
    "collector": "collector",
    "client": "client",
    "reduce": "reduce",
    "verify": "verify",
    "trace": "trace",
    "check": "check",
    "inspect": "inspect",
    "audit": "audit",
    "demo": "demo",
    "completion": "completion",
}


class LazyCommands(click.Group):
    """Imports only the command that is asked for."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Names of all commands."""
        return list(MODULE_OF)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        """The command of that name, if there is one."""
        if name not in MODULE_OF:
            return None
        command: click.Command = getattr(importlib.import_module(f"{__package__}.{MODULE_OF[name]}"), name)
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the commands into the help; the options stand in its first line, so that it fits a screen."""
        self.format_commands(ctx, formatter)


@click.group(
    cls=LazyCommands, options_metavar="[-h | --version]", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="dynamarks")
def commands() -> None:
    """\b
    Prove that a classifier was stolen through its prediction API.
    Exit codes: 0 done, 1 not found (verify, trace), 2 error. Examples: COMMAND -h
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `dynamarks` with `arguments` (the process's own, if omitted) and returns its exit code."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = commands.main(args=arguments, prog_name="dynamarks", standalone_mode=False)
    except click.ClickException as error:
        error.message = foreign_text.shown(error.message or "", foreign_text.LONGEST_LINE)  # type: ignore[misc]
        error.show()
        return EXIT_ERROR
    except click.Abort:
        say("interrupted", err=True)
        return EXIT_ERROR
    except (DynaMarksError, OSError) as error:
        say(f"error: {error}", err=True)
        return EXIT_ERROR
    except Exception as error:  # exit code 1 would say that the mark was not found
        if os.environ.get(DEBUG_VARIABLE):
            raise
        say(
            f"internal error: {type(error).__name__}: {error}",
            f"Set {DEBUG_VARIABLE}=1 to see where it happened.",
            err=True,
        )
        return EXIT_ERROR
    return code if isinstance(code, int) else 0


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        say(f"warning: {message}", err=True)


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())
