"""Queries by metadata as people spell them: ``field=value``."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from joinfs.errors import UsageError
from joinfs.stores import Store
from joinfs.stores.metadata import has_all


def parse_field(text: str) -> tuple[str, list[Any]]:
    """Answer the name of a field, and what it can be: the text behind the ``=``, and if that is JSON, what it says.

    Raises:
        UsageError: It is no ``field=value``.
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"{text!r} is no field=value")
    try:
        said = json.loads(value)
    except ValueError:
        return name, [value]
    return name, [value] if said == value else [value, said]


def _found(store: Store, wanted: dict[str, Any]) -> Iterator[str]:
    """The keys whose metadata has all of these; some names are no names of arguments that a method can have."""
    if not wanted.keys() & {"self", "select"}:
        yield from store.query_keys(**wanted)
        return
    for key in store.query_keys():
        with contextlib.suppress(KeyError):
            if has_all(store.get_metadata(key), wanted):
                yield key


def matching(store: Store, fields: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Yield each key whose metadata has all of some fields, each as one of the values that it can be; none if there are no fields."""
    told: set[str] = set()
    for values in itertools.product(*fields.values()) if fields else ():
        for key in _found(store, dict(zip(fields, values, strict=True))):
            if key not in told:
                told.add(key)
                yield key
