"""The one way by which errors leave an adapter that asks a server."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from dynamarks_tf.errors import DynaMarksError
from dynamarks_tf.suspects.batches import unreadable

Method = TypeVar("Method", bound=Callable[..., Any])


def remote_errors(method: Method) -> Method:
    """Makes a method of an adapter raise errors of this package only, without what libraries raised before.

    A server can repeat the API key anywhere: as a status line, a header, the size of a chunk, the details of a status
    of gRPC. Errors of libraries quote all that, in messages, arguments and attributes that nobody can list, so none of
    them stays as a cause. Messages of this package hold their words without secrets.
    """

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except DynaMarksError as error:
            failure = error
        except Exception as error:
            failure = unreadable(getattr(self, "description", "The suspect"), error)
        raise _alone(failure)  # outside of the handlers: the error of the library does not become the context

    return guarded  # type: ignore[return-value]


def _alone(error: DynaMarksError) -> DynaMarksError:
    """The error without the errors of libraries that it came from."""
    before = error.__cause__ or error.__context__
    error.__context__ = None
    error.__cause__ = _alone(before) if isinstance(before, DynaMarksError) else None
    return error
