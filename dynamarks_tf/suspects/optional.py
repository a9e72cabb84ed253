"""Importing the heavy runtimes that come with extras."""

from __future__ import annotations

import importlib
from typing import Any

from dynamarks_tf.errors import SuspectError


def load(module: str, extra: str, who: str) -> Any:
    """Imports a module.

    Args:
        module: its full name.
        extra: the extra of this package that brings it.
        who: description of the suspect.

    Raises:
        SuspectError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise SuspectError(
            f"{who} needs the package {package}, which is not installed: pip install 'dynamarks_tf[{extra}]'"
        ) from error
