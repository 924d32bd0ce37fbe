"""Extended attributes: a key's metadata under ``user.``, and what the store has besides."""

from typing import Any

from joinfs.errors import KeyExists, NoSuchAttribute, NotPermitted, Unsupported, ValueTooLarge
from joinfs.filesystem.nodes import Node
from joinfs.filesystem.state import State
from joinfs.stores.metadata import RESERVED, from_bytes, to_bytes

XATTR_CREATE = 1
XATTR_REPLACE = 2
USER = "user."
VIRTUAL = USER + RESERVED
MOST_BYTES = 65536
FOREIGN = ("security.", "trusted.")


class XattrVerbs(State):
    """Verbs on extended attributes. SEMANTICS.md, Extended attributes."""

    def getxattr(self, node: int, name: str) -> bytes:
        """Answer an attribute.

        Raises:
            NoSuchAttribute: There is none of that name.
            Unsupported: There can be none.
        """
        found = self._nodes[node]
        if name.startswith(VIRTUAL):
            return self._origin(found, name.removeprefix(VIRTUAL))
        if name.startswith(USER):
            metadata = self._metadata(found)
            if name.removeprefix(USER) not in metadata:
                raise NoSuchAttribute(name)
            return to_bytes(metadata[name.removeprefix(USER)])
        self._check_foreign(name)
        foreign = self._foreign(found)
        if name not in foreign:
            raise NoSuchAttribute(name)
        return foreign[name]

    def _metadata(self, node: Node) -> dict[str, Any]:
        return {} if node.is_unlinked else self._store.get_metadata(node.key())

    def _foreign(self, node: Node) -> dict[str, bytes]:
        """Those outside ``user.``. That there are none is remembered: the kernel asks before every write."""
        if node.is_unlinked or not node.has_xattrs:
            return {}
        foreign = self._store.get_xattrs(node.key())
        node.has_xattrs = bool(foreign)
        return foreign

    def _check_foreign(self, name: str) -> None:
        if not name.startswith(FOREIGN) or not self._store.capabilities.xattrs:
            raise Unsupported(f"{name} cannot be held here")

    def _origin(self, node: Node, name: str) -> bytes:
        """What ``user.joinfs.*`` tells: where the node comes from."""
        key = node.key()
        origin = getattr(self._store, "origin", None)
        known = {"store": self._store.name, "key": key, "layers": self._store.name} if origin is None else origin(key)
        if name not in known:
            raise NoSuchAttribute(name)
        return to_bytes(known[name])

    def listxattr(self, node: int) -> list[str]:
        """Answer the names of the attributes; joinfs's own are not among them."""
        found = self._nodes[node]
        user = [USER + name for name in self._metadata(found) if not name.startswith(RESERVED)]
        return [*user, *(name for name in self._foreign(found) if name.startswith(FOREIGN))]

    def setxattr(self, node: int, name: str, value: bytes, flags: int = 0) -> None:
        """Set an attribute.

        Args:
            flags: 0, ``XATTR_CREATE`` or ``XATTR_REPLACE``, as setxattr(2) has them.

        Raises:
            KeyExists, NoSuchAttribute: As the flags say.
            NotPermitted: The name is joinfs's own.
            Unsupported: The first store cannot hold it.
        """
        self.check_writable()
        found = self._nodes[node]
        if len(value) > MOST_BYTES:
            raise ValueTooLarge(f"{name} of {len(value)} bytes")
        with self._nodes.changing:
            if name.startswith(USER):
                self._set_metadata(found, name, value, flags)
                return
            self._check_foreign(name)
            self._check_flags(name in self._foreign(found), name, flags)
            self._store.set_xattr(found.key(), name, value)
            found.has_xattrs = True
            self._nodes.changed(found)

    def _set_metadata(self, node: Node, name: str, value: bytes, flags: int) -> None:
        if name.startswith(VIRTUAL):
            raise NotPermitted(f"{name} is joinfs's own")
        metadata = self._metadata(node)
        short = name.removeprefix(USER)
        self._check_flags(short in metadata, name, flags)
        new = from_bytes(value, metadata.get(short, ""))
        self._store.set_metadata(node.key(), {**metadata, short: new})
        self._nodes.changed(node)

    def _check_flags(self, there: bool, name: str, flags: int) -> None:
        if flags & XATTR_CREATE and there:
            raise KeyExists(f"{name} is there already")
        if flags & XATTR_REPLACE and not there:
            raise NoSuchAttribute(name)

    def removexattr(self, node: int, name: str) -> None:
        """Remove an attribute; errors as for ``setxattr``."""
        self.check_writable()
        found = self._nodes[node]
        with self._nodes.changing:
            if name.startswith(USER):
                self._remove_metadata(found, name)
                return
            self._check_foreign(name)
            if name not in self._foreign(found):
                raise NoSuchAttribute(name)
            self._store.set_xattr(found.key(), name, None)
            self._nodes.changed(found)

    def _remove_metadata(self, node: Node, name: str) -> None:
        if name.startswith(VIRTUAL):
            raise NotPermitted(f"{name} is joinfs's own")
        metadata = self._metadata(node)
        if metadata.pop(name.removeprefix(USER), None) is None:
            raise NoSuchAttribute(name)
        self._store.set_metadata(node.key(), metadata)
        self._nodes.changed(node)
