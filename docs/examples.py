"""An extension of Griffe, which reads the docstrings: shows their examples as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^Example:\n\n(>>> .*?)(?=\n\n|\Z)", re.DOTALL | re.MULTILINE)


class Examples(griffe.Extension):
    """Our docstrings have `Example:` and the session below it, as Keras's have."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fences the session."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(r"**Example:**\n\n```pycon\n\1\n```", obj.docstring.value)
