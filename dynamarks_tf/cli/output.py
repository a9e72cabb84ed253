"""What commands print: text for people, or one JSON document for machines."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])
_STDOUT = f"{__name__}.stdout"


def json_option(function: Function) -> Function:
    """Adds `--json`, passed as `as_json`: with it, nothing but `print_json` writes to standard output."""
    help_text = "Print JSON; all else goes to standard error."
    option = click.option("--json", "as_json", is_flag=True, is_eager=True, callback=_divert, help=help_text)
    return option(function)


def print_json(facts: Mapping[str, Any]) -> None:
    """Prints plain values as JSON to standard output."""
    text = json.dumps(facts, indent=2, ensure_ascii=False, default=str)  # paths are text
    click.echo(text, file=click.get_current_context().meta.get(_STDOUT))


def _divert(context: click.Context, _: click.Parameter, as_json: bool) -> bool:
    if as_json:
        context.meta[_STDOUT] = sys.stdout
        context.with_resource(contextlib.redirect_stdout(sys.stderr))
    return as_json
