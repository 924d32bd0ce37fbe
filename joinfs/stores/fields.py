"""What stands for a name of metadata with its value in the indexes of databases."""

import hashlib
from typing import Any

from joinfs.stores.metadata import to_json

# Values whose text is longer are indexed by a hash of it.
LONGEST = 200


def field_of(name: str, value: Any) -> tuple[str, str]:
    """Answer what stands for a name and its value: the same for values that are equal.

    Raises:
        Unsupported: The value is not JSON.
    """
    text = to_json(_plain(value))
    if len(text) > LONGEST:
        text = hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
    return to_json(name), text


def _plain(value: Any) -> Any:
    """Numbers that are equal alike, and keys of objects in order: 1, 1.0 and True are equal."""
    if isinstance(value, dict):
        return {str(key): _plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not value.is_integer():
        return value
    return int(value) if isinstance(value, int | float) else value
