"""Any Python mapping as a store: a dict, shelve, dbm, zict, what zarr keeps its chunks in."""

import contextlib
import io
import json
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, BinaryIO

from joinfs.errors import NotRepresentable, Unsupported
from joinfs.stores.flat import FlatStore
from joinfs.stores.keys import is_encodable
from joinfs.stores.metadata import to_json
from joinfs.stores.value import Metadata, Value

BESIDE = ".joinfs/"
# Modules whose mappings write names as Unicode.
_TEXT_ONLY = {"shelve", "dbm", "_dbm", "_gdbm"}


class MappingStore(FlatStore):
    """A mapping of names to bytes.

    The mapping's values are the data, as they are. What a mapping has no room for (metadata, attributes)
    is in further entries: that of ``a/b`` in ``.joinfs/a/b``, as JSON. These entries are no keys. What is
    in the mapping already needs none.

    A mapping that cannot be written to makes a store that takes no writes. The store closes nothing that
    it did not open; if the mapping has a ``sync`` method, ``sync`` and ``disconnect`` call it. One thread
    at a time calls the mapping.

    Args:
        mapping: ``str`` to ``bytes``. Names that are ``bytes`` (as in dbm) are their UTF-8. A value that
            is no bytes is an empty file that cannot be read.
        event_manager, read_only: As for ``FlatStore``.
    """

    def __init__(self, mapping: Any, event_manager: Any = None, read_only: bool = False) -> None:
        super().__init__(event_manager, read_only or not _can_be_written(mapping))
        if type(mapping).__module__.partition(".")[0] in _TEXT_ONLY:
            self.capabilities = self.capabilities._replace(bytes_names=False)
        self._mapping: Any = mapping
        self.name = f"a {type(mapping).__name__}"

    def disconnect(self) -> None:
        if self.is_connected():
            self.sync()
        super().disconnect()

    def sync(self, key: str | None = None) -> None:
        self._check_connected()
        if self.capabilities.writable and hasattr(self._mapping, "sync"):
            with self._lock:
                self._mapping.sync()

    # ---------------------------------------------------------------- what FlatStore asks for

    def _names(self) -> Iterable[str]:
        names = [n.decode("utf-8", "surrogateescape") if isinstance(n, bytes) else n for n in self._mapping.keys()]  # noqa: SIM118 - dbm has keys() and cannot be iterated
        return [name for name in names if isinstance(name, str) and is_encodable(name) and not name.startswith(BESIDE)]

    def _load(self, name: str) -> Value:
        if name.startswith(BESIDE):
            raise KeyError(name)
        try:
            data = self._mapping[name]
        except UnicodeEncodeError:
            raise KeyError(name) from None
        metadata = {}
        with contextlib.suppress(KeyError, ValueError):
            metadata = json.loads(bytes(self._mapping[BESIDE + name]))
        if isinstance(data, bytes | bytearray | memoryview):
            kept = bytes(data)
            return Value(lambda: io.BytesIO(kept), metadata, len(kept))
        return Value(lambda: _refuse(name, data), metadata, 0)

    def _save(self, name: str, data: BinaryIO, size: int, metadata: Metadata) -> None:
        if name.startswith(BESIDE):
            raise Unsupported(f"what begins with {BESIDE!r} is joinfs's own in a mapping")
        kept = data.read()
        try:
            before = self._mapping.get(BESIDE + name)
            self._mapping[BESIDE + name] = to_json(metadata).encode()
        except UnicodeEncodeError as error:
            raise NotRepresentable(f"{name!r} cannot be written in {self.name}, whose names must be Unicode") from error
        try:
            self._mapping[name] = kept
        except BaseException:
            self._put_back(BESIDE + name, before)
            raise

    def _put_back(self, name: str, before: Any) -> None:
        with contextlib.suppress(Exception):
            if before is None:
                del self._mapping[name]
            else:
                self._mapping[name] = before

    def _remove(self, name: str) -> None:
        del self._mapping[name]
        with contextlib.suppress(KeyError):
            del self._mapping[BESIDE + name]


def is_mapping(thing: object) -> bool:
    """Whether something is a mapping, or works like one without being called so, as dbm.gnu and dbm.ndbm do."""
    return isinstance(thing, Mapping) or _can_be_written(thing)


def _can_be_written(thing: object) -> bool:
    return isinstance(thing, MutableMapping) or all(
        hasattr(type(thing), name) for name in ("keys", "get", "__getitem__", "__setitem__", "__delitem__")
    )


def _refuse(name: str, data: object) -> BinaryIO:
    raise Unsupported(f"{name!r} is a {type(data).__name__} in the mapping, and has no bytes")
