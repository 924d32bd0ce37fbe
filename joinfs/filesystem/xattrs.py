"""Extended attributes: a key's metadata under ``user.``, and what the store has besides."""

import stat as stat_module
from typing import Any

from joinfs.errors import KeyExists, NoSuchAttribute, NotPermitted, Unsupported, ValueTooLarge
from joinfs.filesystem import acl
from joinfs.filesystem.nodes import Node
from joinfs.filesystem.state import State
from joinfs.stores.metadata import RESERVED, from_bytes, to_bytes

XATTR_CREATE = 1
XATTR_REPLACE = 2
USER = "user."
VIRTUAL = USER + RESERVED
MOST_BYTES = 65536
FOREIGN = ("security.", "trusted.")
ACLS = frozenset({acl.ACCESS, acl.DEFAULT})


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
        foreign = self.foreign_xattrs(found)
        if name not in foreign:
            raise NoSuchAttribute(name)
        return foreign[name]

    def _metadata(self, node: Node) -> dict[str, Any]:
        return {} if node.is_unlinked else self._nodes.ask(node, self._store.get_metadata)

    def _check_foreign(self, name: str) -> None:
        if not self._is_held(name):
            raise Unsupported(f"{name} cannot be held here")

    def _is_held(self, name: str) -> bool:
        if name in ACLS:
            return self._has_acls
        return name.startswith(FOREIGN) and self._store.capabilities.xattrs

    def _origin(self, node: Node, name: str) -> bytes:
        """What ``user.joinfs.*`` tells: where the node comes from."""
        origin = getattr(self._store, "origin", self._origin_in_one)
        known = self._nodes.ask(node, origin)
        if name not in known:
            raise NoSuchAttribute(name)
        return to_bytes(known[name])

    def _origin_in_one(self, key: str) -> dict[str, str]:
        return {"store": self._store.name, "key": key, "layers": self._store.name}

    def listxattr(self, node: int) -> list[str]:
        """Answer the names of the attributes; joinfs's own are not among them."""
        found = self._nodes[node]
        user = [USER + name for name in self._metadata(found) if not name.startswith(RESERVED)]
        return [*user, *(name for name in self.foreign_xattrs(found) if self._is_held(name))]

    def setxattr(self, node: int, name: str, value: bytes, flags: int = 0, kill_sgid: bool = False) -> None:
        """Set an attribute.

        Args:
            node, name, value: Which.
            flags: 0, ``XATTR_CREATE`` or ``XATTR_REPLACE``, as setxattr(2) has them.
            kill_sgid: Take the set-group-ID bit away, as who is not in the group does by setting an ACL.

        Raises:
            KeyExists, NoSuchAttribute: As the flags say.
            NotPermitted: The name is joinfs's own.
            Unsupported: The first store cannot hold it.
        """
        self.check_writable()
        found = self._nodes[node]
        if len(value) > MOST_BYTES:
            raise ValueTooLarge(f"{name} of {len(value)} bytes")
        self._commit_attributes(found)
        with self._nodes.changing:
            if name.startswith(USER):
                self._set_metadata(found, name, value, flags)
                return
            self._check_foreign(name)
            self._check_flags(name in self.foreign_xattrs(found), name, flags)
            if name in ACLS:
                self._set_acl(found, name, value, kill_sgid)
            else:
                self._store.set_xattr(found.key(), name, value)
            with self._nodes.lock:
                self._nodes.changed(found)
                found.has_xattrs = True

    def _commit_attributes(self, node: Node) -> None:
        """Have the store know what mode a file has that is being written: an ACL says something of it too."""
        content = node.content
        if content is not None and content.has_changes:
            content.commit()

    def _set_acl(self, node: Node, name: str, value: bytes, kill_sgid: bool) -> None:
        """Set an ACL; what an access ACL says of the mode becomes the mode, and one that says no more is not kept."""
        acl.check(value)
        if name == acl.DEFAULT:
            self._store.set_xattr(node.key(), name, value)
            return
        old = self._nodes.refresh(node).mode
        mode, says_no_more = acl.mode_of(value, stat_module.S_IMODE(old))
        if not says_no_more:
            self._store.set_xattr(node.key(), name, value)
        elif name in self.foreign_xattrs(node):
            self._store.set_xattr(node.key(), name, None)
        self._store.set_stat(node.key(), mode=mode & ~stat_module.S_ISGID if kill_sgid else mode)

    def _set_metadata(self, node: Node, name: str, value: bytes, flags: int) -> None:
        if name.startswith(VIRTUAL):
            raise NotPermitted(f"{name} is joinfs's own")
        metadata = self._metadata(node)
        short = name.removeprefix(USER)
        self._check_flags(short in metadata, name, flags)
        new = from_bytes(value, metadata.get(short, ""))
        self._store.update_metadata(node.key(), {short: new})  # what others add meanwhile stays
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
            if name not in self.foreign_xattrs(found):
                if name in ACLS:  # there was none, and there is none now
                    return
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
