"""Keys: what is one, and how they nest.

A key is components joined by ``/``. A directory's key ends in ``/``; the root's is the empty string.
A component is what a file can be called on Linux: 1 to 255 bytes, without NUL or ``/``, and not ``.``
or ``..``. Bytes that are not UTF-8 stand in a ``str`` as ``surrogateescape`` puts them. Stores whose
medium has other keys too spell those with :mod:`joinfs.stores.escape`.
"""

import functools
from hashlib import blake2b

from joinfs.errors import InvalidKey, NameTooLong

ROOT = ""
MAX_NAME = 255


def check_name(name: str) -> None:
    """Raise ``InvalidKey`` (or ``NameTooLong``) unless ``name`` can be one component of a key."""
    if name in {"", ".", ".."} or "\0" in name or "/" in name:
        raise InvalidKey(f"{name!r} cannot be part of a key: use a name that is not empty, '.', '..' or has a NUL")
    if not is_encodable(name):
        raise InvalidKey(f"{name!r} cannot be part of a key: it is neither text nor bytes that stand for a name")
    if len(name) > MAX_NAME // 4 and len(name.encode("utf-8", "surrogateescape")) > MAX_NAME:
        raise NameTooLong(f"{name[:40]!r}... is longer than {MAX_NAME} bytes")


def is_encodable(text: str) -> bool:
    """Whether text is some bytes', as ``surrogateescape`` has them."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def check_key(key: str) -> None:
    """Raise ``InvalidKey`` unless ``key`` is a key; the root's and directories' included."""
    if not isinstance(key, str):
        raise InvalidKey(f"a key is a str, not {type(key).__name__}")
    if key != ROOT:
        _check_names(key)


@functools.lru_cache(maxsize=8192)  # a key passes here at every store of a join
def _check_names(key: str) -> None:
    for name in key.removesuffix("/").split("/"):
        check_name(name)


def is_directory_key(key: str) -> bool:
    """Whether ``key`` is spelled as a directory's."""
    return key == ROOT or key.endswith("/")


def directory_key(key: str) -> str:
    """The same place as a directory's key: ``a`` and ``a/`` both give ``a/``."""
    return key if is_directory_key(key) else key + "/"


def hash_of_key(key: str) -> int:
    """A number of 64 bits for a place, whether it is spelled as a directory's or not; the same always and everywhere."""
    return int.from_bytes(blake2b(key.removesuffix("/").encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def split(key: str) -> tuple[str, str]:
    """``(key of the parent directory, name)``: ``a/b`` and ``a/b/`` give ``("a/", "b")``."""
    parent, slash, name = key.removesuffix("/").rpartition("/")
    return parent + slash, name


def ancestors(key: str) -> list[str]:
    """The keys of the directories above ``key``, outermost first, the root left out."""
    parts = key.removesuffix("/").split("/")[:-1]
    return ["/".join(parts[: n + 1]) + "/" for n in range(len(parts))]
