"""Whether all that is in a store can be read, as it says it is."""

import contextlib
from collections.abc import Iterator

from joinfs.errors import JoinfsError
from joinfs.stores.keys import ROOT
from joinfs.stores.progress import Work
from joinfs.stores.reading import Reading
from joinfs.stores.value import MEBIBYTE, Stat
from joinfs.stores.whole import whole


def walk(store: Reading) -> Iterator[tuple[str, Stat | str]]:
    """Yield each key below the root with its attributes; of a directory that cannot be listed, a sentence on that instead."""
    pending = [ROOT]
    while pending:
        directory = pending.pop()
        try:
            for name, stat in store.list(directory):
                key = f"{directory}{name}/" if stat.is_directory else directory + name
                yield key, stat
                if stat.is_directory:
                    pending.append(key)
        except (JoinfsError, OSError, KeyError) as error:
            yield directory, f"{directory!r} cannot be listed: {reason(error)}"


def walk_told(store: Reading) -> Iterator[tuple[str, Stat | str]]:
    """The same, of which the store's listeners are told."""
    with Work(store, f"checking {store.name}") as work:
        for key, stat in walk(store):
            yield key, stat
            work.advance()


def read_through(store: Reading, with_data: bool = True) -> Iterator[str]:
    """Yield a sentence for each key of which something cannot be read. Emits StoreProgress events, which count keys."""
    for key, stat in walk_told(store):
        if isinstance(stat, str):
            yield stat
            continue
        try:
            _read(store, key, stat, with_data)
        except (JoinfsError, OSError, KeyError) as error:
            yield f"{key!r} cannot be read: {reason(error)}"


def _read(store: Reading, key: str, stat: Stat, with_data: bool) -> None:
    there = store.stat(key)
    if there.kind != stat.kind:
        raise JoinfsError("it is listed as something else than what it is")
    store.get_metadata(key)
    if stat.is_file and with_data:
        with contextlib.closing(store.get(key)) as value:
            stream = whole(value, "the data")
            while stream.read(MEBIBYTE):
                pass


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, KeyError):
        return "it is listed, and not there"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(str(text).split())
