"""What commands share on the screen: JSON or text, help in sections, a quiet TensorFlow, the wait for Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from dynamarks_tf import foreign_text
from dynamarks_tf._support.stderr import silent_stderr

Function = TypeVar("Function", bound=Callable[..., Any])
_STDOUT = f"{__name__}.stdout"


def json_option(function: Function) -> Function:
    """Adds `--json`, passed as `as_json`: with it, nothing but `print_json` writes to standard output."""
    help_text = "Print JSON; all else goes to standard error."
    option = click.option("--json", "as_json", is_flag=True, is_eager=True, callback=_divert, help=help_text)
    return option(function)


def say(*texts: object, err: bool = False) -> None:
    """Prints lines. Each text is one, whatever foreign names it holds; nothing else here writes to the screen.

    Args:
        texts: the lines; without any, an empty one.
        err: whether to print to standard error.
    """
    click.echo(foreign_text.lines(texts), err=err)


def print_json(facts: Mapping[str, Any]) -> None:
    """Prints plain values as JSON to standard output, in printable ASCII: names are foreign text."""
    text = json.dumps(facts, indent=2, default=str).replace("\x7f", "\\u007f")  # paths are text
    click.echo(foreign_text.hide(text), file=click.get_current_context().meta.get(_STDOUT))


def _divert(context: click.Context, _: click.Parameter, as_json: bool) -> bool:
    if as_json:
        context.meta[_STDOUT] = sys.stdout
        context.with_resource(contextlib.redirect_stdout(sys.stderr))
    return as_json


def load_tensorflow() -> None:
    """Imports TensorFlow and finds its devices while the process's standard error goes nowhere.

    TensorFlow's libraries write notes about processor and GPU before any Python setting can stop them. Errors are
    exceptions and are not lost. Does nothing if TensorFlow is loaded already. Its advice about functions that are
    traced often is dropped: every model is a function of its own here, and is traced once.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            session.run(tf.constant(0))  # a first session writes a note, too
        tf.constant(0)
        tf.get_logger().addFilter(lambda record: "tf.function retracing" not in record.getMessage())


def wait_until_stopped(wait: Callable[[], None]) -> None:
    """Says how to stop, and returns when `wait` does, or on Ctrl-C or SIGTERM: nothing logged is lost by either."""
    say("stop with Ctrl-C")
    at_termination = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        wait()
    except KeyboardInterrupt:
        say("stopping")
    finally:
        signal.signal(signal.SIGTERM, at_termination)


class SectionedCommand(click.Command):
    """A command whose help lists its options in sections, and that explains what it needs when something is missing.

    Args:
        sections: for each heading, the names of its options, as the function's parameters, separated by blanks. Options
            that none names stand below the last one.
        needs: what the command needs, a few lines with an example; nothing more is said without them.
    """

    def __init__(self, *args: Any, sections: Mapping[str, str], needs: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections
        self._needs = needs

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments; says what the command needs if one is missing."""
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter:
            if self._needs:
                click.echo(self._needs, err=True)
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options into the help."""
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        records = {str(option.name): option.get_help_record(ctx) for option in options}
        groups = {heading: [records.pop(name) for name in names.split()] for heading, names in self._sections.items()}
        groups["Other options"] = [*records.values()]
        for heading, group in groups.items():
            with formatter.section(heading):
                formatter.write_dl([record for record in group if record is not None])
