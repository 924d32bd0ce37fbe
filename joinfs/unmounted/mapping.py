"""A store as a mapping of names to bytes, for libraries that take one."""

import io
from collections.abc import Iterator, MutableMapping
from typing import Any

from joinfs.errors import IsADirectory, NotADirectory
from joinfs.stores import Store
from joinfs.stores.keys import directory_key, is_directory_key
from joinfs.unmounted.links import follow


class StoreMapping(MutableMapping[str, bytes]):
    """The regular files of a store, by their keys; symlinks to some are followed, within the store.

    Directories come with what is in them, and stay without. Everything but ``KeyError`` is as the store raises it.

    Args:
        store: A store that is connected.
        prefix: The directory whose files these are; it need not be there.
    """

    def __init__(self, store: Store, prefix: str = "") -> None:
        self._store = store
        self._prefix = directory_key(prefix.strip("/"))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._prefix!r} of {self._store!r}>"

    def _key(self, name: Any) -> str:
        """The key of a file that is there."""
        if not isinstance(name, str) or is_directory_key(name):
            raise KeyError(name)
        try:
            found = follow(self._store, self._prefix + name)
        except NotADirectory:
            raise KeyError(name) from None
        if found.stat is None or not found.stat.is_file:
            raise KeyError(name)
        return found.key

    def __getitem__(self, name: str) -> bytes:
        return self._store.to_bytes(self._key(name))

    def __contains__(self, name: object) -> bool:
        try:
            self._key(name)
        except KeyError:
            return False
        return True

    def __setitem__(self, name: str, data: Any) -> None:
        """Set the data, in one step; metadata that is there stays."""
        key = follow(self._store, self._prefix + name).key
        if is_directory_key(key):
            raise IsADirectory(f"{name!r} is a directory")
        self._store.set_data(key, io.BytesIO(data))

    def __delitem__(self, name: str) -> None:
        """Delete a file, or a symlink to one."""
        self._key(name)
        self._store.delete(follow(self._store, self._prefix + name, last=False).key)

    def __iter__(self) -> Iterator[str]:
        for key in self._store.keys(self._prefix):
            name = key.removeprefix(self._prefix)
            if name in self:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)


def as_mapping(store: Store, prefix: str = "") -> StoreMapping:
    """Answer a mapping of names to bytes: the files of a store, or of one directory of it.

    See Also:
        StoreMapping.
    """
    return StoreMapping(store, prefix)
