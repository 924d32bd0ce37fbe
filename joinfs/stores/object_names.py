r"""Keys as names of objects in a bucket, and back: one to one, whatever others called their objects.

The name of ``a/b`` is ``a/b``, that of the directory ``a/`` is ``a/``. A name of which no file can be called is spelled
as in :mod:`joinfs.stores.escape`, so that it is shown. A component of a key that servers do not take, or take for another,
because it is not UTF-8 or has a backslash or a control character in it, changes places with ``%%`` and itself,
percent-encoded: ``a\b`` is the object ``%%a%5Cb``, and an object that others called ``a\b`` is shown as one of that name.
"""

import re
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from joinfs.errors import InvalidKey, NameTooLong
from joinfs.stores.escape import MARK, MORE, escape, unescape
from joinfs.stores.keys import ROOT

# Bytes that S3, GCS and Azure take.
MOST_BYTES = 1024
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")


class Level(NamedTuple):
    """Where the entries of a directory stand in a bucket.

    Attributes:
        prefix: What their names begin with; empty, or with ``/`` at its end.
        pieces: Of a directory that is only the beginning of names too long for one component: those that lead to it.
    """

    prefix: str
    pieces: list[str]


def name_of(key: str) -> str:
    """Answer the name of the object of a value's key.

    Raises:
        InvalidKey: No object is shown at such a key.
    """
    text, _ = unescape(key)
    name = "/".join(_swapped(part) for part in text.split("/"))
    if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
        raise InvalidKey(f"{key!r}: no object can be called so")
    if len(name.encode()) > MOST_BYTES:
        raise NameTooLong(f"{key[:40]!r}... would be the key of an object of more than {MOST_BYTES} bytes")
    return name


def is_beside(key: str) -> bool:
    """Whether a key is that of a value which has a directory of its name beside it; errors as for ``name_of``."""
    return unescape(key)[1]


def spelling_of(component: str, beside_directory: bool = False) -> list[str]:
    """Answer the components of a key that stand for one of a name; several if it is too long."""
    return escape(_swapped(component), beside_directory).split("/")


def level_of(key: str) -> Level:
    """Answer where the entries of a directory are; errors as for ``name_of``."""
    parts = key.removesuffix("/").split("/") if key != ROOT else []
    pieces: list[str] = []
    while parts and parts[-1].startswith(MARK) and parts[-1].endswith(MORE):
        pieces.insert(0, parts.pop())
    return Level(name_of("/".join(parts)) + "/" if parts else "", pieces)


def _swapped(part: str) -> str:
    """What changes places with a component: twice swapped it is itself."""
    if _UNSAFE.search(part):
        return _quoted(part)
    if not part.startswith(MARK):
        return part
    text = unquote_to_bytes(part.removeprefix(MARK)).decode("utf-8", "surrogateescape")
    return text if _UNSAFE.search(text) and _quoted(text) == part else part


def _quoted(part: str) -> str:
    return MARK + quote(part.encode("utf-8", "surrogateescape"))
