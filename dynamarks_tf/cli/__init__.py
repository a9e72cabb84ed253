"""The command `dynamarks`: each subcommand turns its arguments into one call of an importable function."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from dynamarks_tf._version import __version__
from dynamarks_tf.cli.audit import audit
from dynamarks_tf.cli.check import check
from dynamarks_tf.cli.demo import demo
from dynamarks_tf.cli.export import export
from dynamarks_tf.cli.inspect import inspect
from dynamarks_tf.cli.key import commit, keygen
from dynamarks_tf.cli.mark import mark
from dynamarks_tf.cli.proxy import proxy
from dynamarks_tf.cli.serve import serve
from dynamarks_tf.cli.verify import verify
from dynamarks_tf.errors import DynaMarksError

EXIT_ERROR = 2
DEBUG_VARIABLE = "DYNAMARKS_DEBUG"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dynamarks")
def commands() -> None:
    """Prove that a classifier was stolen through its prediction API.

    \b
      dynamarks keygen --owner "ACME Vision" --out acme.key
      dynamarks mark model.keras --key acme.key --out marked.keras
      dynamarks export marked.keras served/clf
      dynamarks verify suspect.keras --owner marked.keras --key acme.key --queries x.npy

    Exit codes: 0 done (verify: the mark was found), 1 verify did not find the mark, 2 an error.
    """


for _command in (keygen, commit, mark, export, serve, proxy, verify, check, inspect, audit, demo):
    commands.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `dynamarks` with `arguments` (the process's own, if omitted) and returns its exit code."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = commands.main(args=arguments, prog_name="dynamarks", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return EXIT_ERROR
    except click.Abort:
        click.echo("interrupted", err=True)
        return EXIT_ERROR
    except (DynaMarksError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        return EXIT_ERROR
    except Exception as error:  # exit code 1 would say that the mark was not found
        if os.environ.get(DEBUG_VARIABLE):
            raise
        click.echo(
            f"internal error: {type(error).__name__}: {error}\nSet {DEBUG_VARIABLE}=1 to see where it happened.",
            err=True,
        )
        return EXIT_ERROR
    return code if isinstance(code, int) else 0


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        click.echo(f"warning: {message}", err=True)


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())
