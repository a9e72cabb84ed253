"""How commands load the owner's model: modules to import before, and code inside the file. Never for suspects."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    import keras

Function = TypeVar("Function", bound=Callable[..., Any])


def own_model_options(function: Function) -> Function:
    """Adds `--import` and `--unsafe-load`, passed as `modules` and `unsafe_load`."""
    unsafe = click.option(
        "--unsafe-load", is_flag=True, help="Run code inside your own model file (Lambda layers). Never for suspects."
    )
    modules = click.option(
        "--import", "modules", multiple=True, metavar="MODULE", help="Module that registers layers of your own model."
    )
    return modules(unsafe(function))


def load_own_model(
    path: Path, modules: tuple[str, ...] = (), unsafe_load: bool = False, *, compiled: bool = False
) -> keras.Model:
    """Loads a model file of the owner.

    Args:
        path: a `.keras` or `.h5` file.
        modules: modules to import before, from the current folder or installed.
        unsafe_load: whether to run code inside the file.
        compiled: whether to compile the model as it was.

    Raises:
        UsageError: a module cannot be imported.
        ModelError: the file cannot be loaded.
    """
    from dynamarks_tf.watermark import marking

    import_modules(modules)
    return marking.load_model(path, compiled=compiled, allow_code=unsafe_load)


def import_modules(modules: tuple[str, ...]) -> None:
    """Imports modules by name, from the current folder or installed.

    Raises:
        UsageError: one cannot be imported.
    """
    for module in modules:
        _import(module)


def _import(module: str) -> None:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever the module itself raises
        raise click.UsageError(f"--import {module}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)
