"""What can stand for a store: mappings and encore's stores, also by the name of a Python object."""

import importlib
from collections.abc import Mapping
from typing import Any

from joinfs.errors import UsageError
from joinfs.stores.base import Store


def as_store(thing: Any) -> Store:
    """Answer the store that something is or stands for: a Store, a mapping, or a store of encore's.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(thing, Store):
        return thing
    # Here, because they are seldom wanted.
    from joinfs.stores.encore import EncoreStore, is_encore  # noqa: PLC0415
    from joinfs.stores.mapping import MappingStore, is_mapping  # noqa: PLC0415

    if not isinstance(thing, Mapping) and is_encore(thing):
        return EncoreStore(thing)
    if is_mapping(thing):
        return MappingStore(thing)
    raise UsageError(f"a {type(thing).__name__} is neither a store, nor a mapping, nor a store of encore's")


def open_python(path: str, read_only: bool) -> Store:
    """Answer the store for ``python:MODULE:ATTRIBUTE``: what ``as_store`` takes, or a function that makes one.

    Raises:
        UsageError: There is no such thing, or it is something else.
    """
    from joinfs.stores.mapping import is_mapping  # noqa: PLC0415
    from joinfs.stores.views import ReadOnlyStore  # noqa: PLC0415

    thing = _import(path)
    if callable(thing) and not isinstance(thing, Store) and not is_mapping(thing):
        thing = thing()
    try:
        store = as_store(thing)
    except UsageError as error:
        raise UsageError(f"python:{path}: {error}") from None
    if store is not thing:
        store.name = f"python:{path}"
    return ReadOnlyStore(store) if read_only else store


def _import(path: str) -> Any:
    module, colon, attribute = path.partition(":")
    if not (module and colon and attribute):
        raise UsageError(f"'python:{path}' must be python:MODULE:ATTRIBUTE, as in python:mypackage.data:CHUNKS")
    try:
        thing: Any = importlib.import_module(module)
        for name in attribute.split("."):
            thing = getattr(thing, name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"python:{path} cannot be had: {error}") from error
    return thing
