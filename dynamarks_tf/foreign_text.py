"""The one way by which foreign text reaches terminals, logs, errors and reports, and by which secrets are kept out.

Foreign is all that others wrote: names of owners, clients, files and columns, versions, the words of a server or of a
library. A name may hold control characters that move a cursor, line breaks that begin a forged line, or marks that
reverse the order of letters. Imports nothing of this package; everything may import it.
"""

from __future__ import annotations

import base64
import hashlib
import html.entities
import logging
import re
import traceback
import unicodedata
from collections.abc import Iterable

LONGEST_SHOWN = 500  # characters of one foreign text
LONGEST_LINE = 4000  # characters of a message that holds several
LONGEST_NAME = 500  # characters of a name that a file may hold, before escapes
HIDDEN = "***"

REFUSED = (
    "\x00-\x1f\x7f-\x9f"  # control characters
    "\xad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001"
    "\U000e0020-\U000e007f"  # format characters
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff"  # halves of surrogate pairs
)
"""The characters that no name may hold, as a class of a regular expression. Not left to the Unicode of a release."""

_INVISIBLE = (  # count as letters, marks or symbols
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
)
_REFUSED = re.compile(f"[{REFUSED}]")
_ESCAPED = re.compile(f"[{REFUSED}{_INVISIBLE}]")
_SHORTEST_SECRET = 6  # characters; shorter ones are found in many a text by chance
_SHORTEST_PART = 8  # of an encoding: what chance does not give
_BETWEEN = r"[\s\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2060-\u2064\ufeff]{0,2}"  # what a name may not hold, and spaces
_LONGEST_CHARACTER = 14  # of an escaped one, and what stands before the next
_secrets: set[str] = set()
_pattern: re.Pattern[str] | None = None
_longest_secret = 0


def shown(text: object, longest: int = LONGEST_SHOWN) -> str:
    """A foreign text on one line, without characters that act on a terminal or cannot be seen, and without secrets.

    These become escapes such as `\\x1b`. A backslash stays one, so that nothing changes the second time.

    Args:
        text: the text, bytes in UTF-8, or anything that `str` understands, such as an exception.
        longest: number of characters at most; the rest becomes `...`.

    Example:

    >>> shown("one\\n\\x1b[2Jtwo")
    'one\\\\n\\\\x1b[2Jtwo'
    """
    if isinstance(text, (bytes, bytearray)):
        whole = bytes(text[: 4 * longest + _longest_secret]).decode("utf-8", "backslashreplace")
    else:
        whole = str(text)
    room = longest + _longest_secret
    start = hide(whole[:room])
    if len(whole) > room:
        start = start[: max(longest, len(start) - _longest_secret)]  # the end may be the beginning of a secret
    if not (start.isascii() and start.isprintable()):
        start = "".join(map(_escaped, start))
    return start if len(start) <= longest and len(whole) <= room else f"{start[:longest]}..."


def quoted(name: str, longest: int = 40) -> str:
    """A foreign name in quotes and ASCII, so that different names look different.

    Args:
        name: the name.
        longest: number of its characters at most; a digest stands for the rest.

    Example:

    >>> quoted("customer-7"), quoted("\\x1b[2J")
    ("'customer-7'", "'\\\\x1b[2J'")
    """
    if len(name) <= longest:
        return hide(ascii(name))
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return f"{hide(ascii(name[:longest]))}... (sha256 {digest[:8]})"


def lines(texts: Iterable[object]) -> str:
    """Lines of output: each text is one, whatever it holds."""
    return "\n".join(shown(text, LONGEST_LINE) for text in texts)


def escaped(name: str, longest: int = LONGEST_NAME) -> str:
    """A foreign name as files may hold it: escapes stand for what no name may hold, a digest for what is too long."""
    if len(name) > longest:
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
        name = f"{name[:longest]}... (sha256 {digest[:8]})"
    return name if name.isascii() and name.isprintable() else _REFUSED.sub(lambda found: _escape(found[0]), name)


def is_plain(text: str) -> bool:
    """Whether a text holds none of the characters that names must not hold: control, format, line separators."""
    return _REFUSED.search(text) is None


def hide(text: str) -> str:
    """Blanks secrets out of a text, in all forms in which a server may repeat them."""
    return text if _pattern is None else _pattern.sub(HIDDEN, text)


def keep_secret(secret: str) -> None:
    """From now on, no text that passes through here holds `secret`: plain, escaped, in base64, base32, hexadecimal.

    Escapes are those of URLs, JSON, Python and HTML, of some characters or all. Whoever knows the secret can write it
    in ways that no list holds.

    Args:
        secret: such as an API key. Fewer than 6 characters are not kept: they would be found everywhere.
    """
    global _pattern, _longest_secret
    if len(secret) < _SHORTEST_SECRET:
        return
    _secrets.add(secret)
    _longest_secret = _LONGEST_CHARACTER * max(map(len, _secrets))
    forms = [_escaped_secret(each) for each in _secrets]
    encoded = {form for each in _secrets for form in _encoded(each)}
    forms += [_BETWEEN.join(map(re.escape, form)) for form in sorted(encoded, key=lambda form: (-len(form), form))]
    _pattern = re.compile("|".join(forms), re.IGNORECASE)


def logger(name: str) -> logging.Logger:
    """The logger of a module whose records hold foreign text: all of it is shown as `shown` does."""
    found = logging.getLogger(name)
    if _CLEANER not in found.filters:
        found.addFilter(_CLEANER)
    return found


class _Cleaner(logging.Filter):
    """Makes one line of the message of a record, and begins each line of its traceback with a bar."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = shown(record.getMessage(), LONGEST_LINE), None
        if record.exc_info and record.exc_info[1] is not None:
            told = "".join(traceback.format_exception(record.exc_info[1])).splitlines()
            record.exc_text, record.exc_info = lines(f"| {line}" for line in told), None
        return True


_CLEANER = _Cleaner()


def _escaped(character: str) -> str:
    is_harmless = character.isprintable() or unicodedata.category(character) == "Zs"
    if is_harmless and not _ESCAPED.match(character):
        return character
    return _escape(character)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _escaped_secret(secret: str) -> str:
    """A pattern of a secret whose characters are plain or escaped, each in its own way."""
    plain = re.sub(r"\\+", r"\\", secret)  # a run of them is one, however often it is escaped
    return _BETWEEN.join(map(_character, plain))


def _character(character: str) -> str:
    code = ord(character)
    names = {name.lower() for name, meant in html.entities.html5.items() if meant == character and name.endswith(";")}
    named = "".join(f"|{re.escape(name)}" for name in sorted(names))
    forms = [
        r"\\{0,8}" + re.escape(character) if character != "\\" else r"\\{1,8}",
        rf"%(?:25){{0,3}}{code:02x}",
        rf"={code:02x}",
        rf"\\{{1,4}}(?:x{code:02x}|u00{code:02x}|u\{{0{{0,4}}{code:x}\}}|0?{code:03o})",
        rf"&(?:amp;)?(?:#0{{0,4}}{code};|#x0{{0,4}}{code:x};{named})",
        re.escape(chr(code + 0xFEE0)),  # the wide form of East Asian text
    ]
    return f"(?:{'|'.join(forms)})"


def _encoded(secret: str) -> set[str]:
    """A secret as other characters, in the ways that libraries and servers write bytes."""
    data = secret.encode()
    forms = {base64.b32encode(data).decode().rstrip("=")[:-1]}
    for before in range(3):  # where a secret begins in base64 depends on what precedes it, such as a user name
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(bytes(before) + data).decode().rstrip("=")
            inner = encoded[-(-8 * before // 6) : (8 * (before + len(data))) // 6]
            forms.add(inner)
    return {data.hex(), data.hex(" "), data.hex(":"), *(form for form in forms if len(form) >= _SHORTEST_PART)}
