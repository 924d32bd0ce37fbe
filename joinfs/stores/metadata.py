"""Metadata as extended attributes, and back.

``metadata[NAME]`` is the attribute ``user.NAME``. A ``str`` is its text in UTF-8; any other JSON value
is its JSON text. Bytes that are not UTF-8 are a ``str`` with ``surrogateescape``, so they survive.
Names that begin with ``joinfs.`` are joinfs's own.
"""

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any

from joinfs.errors import Unsupported
from joinfs.stores.keys import is_encodable

RESERVED = "joinfs."
# JSON values of which nothing can be shared.
_PLAIN: set[type] = {str, int, bool, type(None)}


def without(metadata: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Answer metadata but for some names, which are a store's own and not shown."""
    return {name: value for name, value in metadata.items() if name not in names}


def check_free(metadata: Mapping[str, Any], names: Iterable[str], whose: str) -> None:
    """Raise ``Unsupported`` if metadata that somebody gives has names that are a store's own."""
    for name in names:
        if name in metadata:
            raise Unsupported(f"the metadata {name!r} is {whose} own")


def to_bytes(value: Any) -> bytes:
    """Answer the attribute's bytes for a metadata value.

    Raises:
        Unsupported: The value is neither a str nor JSON.
    """
    if not isinstance(value, str):
        return to_json(value).encode()
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise Unsupported(f"{value[:40]!r} is neither text nor bytes that stand for some") from error


def from_bytes(data: bytes, old: Any = "") -> Any:
    """Answer the metadata value for an attribute's bytes.

    Args:
        data: The attribute.
        old: The value that it replaces. If that is not a str, and ``data`` is JSON of its type, the
            value is of that type as well.
    """
    text = data.decode("utf-8", "surrogateescape")
    if isinstance(old, str):
        return text
    try:
        new = json.loads(text)
    except ValueError:
        return text
    return new if type(new) is type(old) else text


def to_json(value: Any) -> str:
    """Answer ``value`` as JSON text, in ASCII.

    Raises:
        Unsupported: It is not JSON.
    """
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Unsupported(f"metadata must be text, or JSON values: {error}") from error


def has_all(metadata: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether metadata has all that is wanted, exactly."""
    return wanted.items() <= metadata.items()


def selected(metadata: Mapping[str, Any], names: Iterable[str] | None) -> dict[str, Any]:
    """Answer metadata cut down to some names, as far as they are there; all of it if ``names`` is None."""
    return dict(metadata) if names is None else {name: metadata[name] for name in names if name in metadata}


def checked(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Answer metadata as a new dict that shares nothing with this one, if it can be metadata at all.

    Raises:
        Unsupported: A name is not text, or is empty, or has a NUL in it; or a value is not JSON.
    """
    for name in metadata:
        if not isinstance(name, str) or not name or "\0" in name or not is_encodable(name):
            raise Unsupported(f"{name!r} is no name for metadata: it must be text, not empty, and without NUL")
    return copied(metadata)


def copied(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that shares nothing with the original; errors as for ``to_json``."""
    if _PLAIN.issuperset(map(type, metadata.values())):
        return dict(metadata)
    made: dict[str, Any] = json.loads(to_json(dict(metadata)))
    return made


def unshared(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """As ``copied``, of what need not be JSON: others' metadata."""
    return dict(metadata) if _PLAIN.issuperset(map(type, metadata.values())) else copy.deepcopy(dict(metadata))
