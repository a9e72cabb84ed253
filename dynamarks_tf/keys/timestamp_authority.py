"""Asks a time-stamping authority over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dynamarks_tf.errors import ArgumentError, CommitmentError
from dynamarks_tf.keys.timestamp import LARGEST_REPLY

if TYPE_CHECKING:
    import requests

_TYPE = "application/timestamp-query"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def ask(request: bytes, url: str, *, timeout_s: float = 30.0) -> bytes:
    """Sends a request for a timestamp, and returns the reply as it came, unchecked.

    No credentials are sent, also none from a `.netrc` file, and redirects are not followed. Nothing that the server
    writes is shown. Plain HTTP is enough: the reply is signed.

    Args:
        request: the result of `make_request`.
        url: address of the authority, http or https, without user name and password.
        timeout_s: seconds to wait for the connection, and then for the whole reply, even if it trickles.

    Raises:
        ArgumentError: the address is none.
        CommitmentError: there is no reply.
    """
    import requests
    import urllib3

    from dynamarks_tf._support.deadline import Deadline

    shown, is_local = _checked(url)
    deadline = Deadline(timeout_s)
    with requests.Session() as session:
        session.auth = _no_credentials  # otherwise `requests` takes them from a .netrc file
        session.trust_env = not is_local  # a proxy cannot reach this machine
        for scheme in ("http://", "https://"):
            session.mount(scheme, deadline.adapter(urllib3.Retry(0)))
        try:
            with session.post(
                url,
                data=request,
                headers={"Content-Type": _TYPE, "Accept-Encoding": "identity"},
                timeout=timeout_s,
                allow_redirects=False,
                stream=True,
            ) as response:
                reply = response.raw.read(LARGEST_REPLY + 1, decode_content=False)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            why = f"no reply within {timeout_s:g} s" if deadline.has_passed else type(error).__name__
            raise CommitmentError(
                f"The time-stamping authority {shown} cannot be asked ({why}). Check the address, try later, or write "
                "the request to a file and send it from elsewhere (--request FILE)."
            ) from None  # its messages quote the server
        finally:
            deadline.stop()
    if deadline.has_passed:
        raise CommitmentError(f"The time-stamping authority {shown} did not reply within {timeout_s:g} s. Try later.")
    if response.status_code != 200:
        raise CommitmentError(
            f"The time-stamping authority {shown} answered with HTTP status {response.status_code}. Is this where "
            "it takes RFC 3161 requests? Redirects are not followed, and no credentials are sent."
        )
    if len(reply) > LARGEST_REPLY:
        raise CommitmentError(f"{shown} sends more than {LARGEST_REPLY} bytes, which is no timestamp.")
    return bytes(reply)


def _checked(url: str) -> tuple[str, bool]:
    """The address as it may be shown, and whether it is on this machine."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or not url.isprintable():
        raise ArgumentError(
            "The address of a time-stamping authority must be http://HOST/PATH or https://HOST/PATH, without user name "
            "and password."
        )
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path}", host in _LOOPBACK


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
