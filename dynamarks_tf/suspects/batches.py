"""Checks of a batch before an adapter sends it, and errors for what may go wrong, common to all adapters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import texts
from dynamarks_tf.errors import SuspectError
from dynamarks_tf.foreign_text import shown

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]

_LONGEST_DETAIL = 300
_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # colors and the like


def fit_shape(batch: npt.ArrayLike, shape: Shape | None, description: str) -> Array:
    """Checks a batch against the shape of one input.

    Args:
        batch: inputs, shape `(n, ...)`.
        shape: shape of one input, `None` for unknown axes; `None` if unknown.
        description: description of the suspect.

    Returns:
        The batch as an array.

    Raises:
        SuspectError: the shapes do not fit.
    """
    array = np.asarray(batch)
    if shape is not None and not (
        array.ndim == len(shape) + 1
        and all(axis in (None, size) for axis, size in zip(shape, array.shape[1:], strict=True))
    ):
        axes = brief(", ".join("any" if axis is None else str(axis) for axis in shape))
        raise SuspectError(f"{description} takes inputs of shape (n, {axes}) and was given {array.shape}.")
    return array


def fit_type(batch: Array, dtype: np.dtype[Any], description: str) -> Array:
    """Converts a batch to the input type of a suspect, unless that would change whole numbers or text.

    Args:
        batch: inputs of any type.
        dtype: the type to send; `object` for text.
        description: description of the suspect.

    Returns:
        The batch in `dtype`.

    Raises:
        SuspectError: values would be lost, such as those of images in [0, 1] sent as uint8.
    """
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            converted = batch.astype(dtype, copy=False)
    except (TypeError, ValueError):
        fits = False
    else:
        exact = dtype.kind not in "biu" or np.array_equal(converted, batch)
        fits = exact and (dtype.kind == "O") == texts.may_be_text(batch)
    if not fits:
        wanted = "text" if dtype.kind == "O" else dtype.name
        raise SuspectError(
            f"{description} takes {wanted} and was given {batch.dtype} values that do not fit{_range(batch)}. Convert "
            "the queries to the type and range that the model was trained on, such as 0 to 255."
        )
    return converted


def as_text(batch: Array, description: str) -> Array:
    """Turns bytes into `str` objects for a suspect that takes no others.

    Raises:
        SuspectError: some are not UTF-8.
    """
    try:
        return texts.decoded(batch)
    except ValueError as error:
        raise SuspectError(f"{description} takes text, and was given something else: {error}.") from error


def _range(batch: Array) -> str:
    return f" (from {batch.min():.4g} to {batch.max():.4g})" if batch.size and batch.dtype.kind in "fiu" else ""


def refusal(description: str, batch: Array, error: object) -> SuspectError:
    """Makes the error for a batch that a suspect could not answer."""
    return SuspectError(
        f"{description} could not answer a batch of shape {batch.shape} and type {batch.dtype}: {brief(error)}"
    )


def closed(description: str) -> SuspectError:
    """Makes the error for a suspect that was closed."""
    return SuspectError(f"{description} is closed; make a new suspect to ask again.")


def unreadable(description: str, error: Exception) -> SuspectError:
    """Makes the error for a server that breaks the protocol."""
    return SuspectError(f"{description} sent something that cannot be read ({type(error).__name__}: {brief(error)}).")


def several_inputs(description: str, names: Iterable[str]) -> SuspectError:
    """Makes the error for a model that does not take exactly one input."""
    aliases = sorted(names)
    return SuspectError(
        f"{description} has {len(aliases)} inputs ({brief(', '.join(aliases))}), and only suspects with one can be "
        "asked directly. Pass a function of one batch that builds the others."
    )


def brief(detail: object) -> str:
    """Shortens a text from a server or library for a message: one line without colors, at most 300 characters."""
    text = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail) or type(detail).__name__
    text = _TERMINAL_CODE.sub("", text[: 10 * _LONGEST_DETAIL])  # there may be millions more
    return shown(" ".join(text.split()), _LONGEST_DETAIL)
