"""The verbs on names: looking up, making, removing, renaming, linking."""

import contextlib
import logging
import os
import stat as stat_module
from collections.abc import Iterator

from joinfs.errors import (
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    JoinfsError,
    KeyExists,
    NotADirectory,
    NotPermitted,
    StaleNode,
    Unsupported,
)
from joinfs.filesystem import acl
from joinfs.filesystem.content import Content
from joinfs.filesystem.handles import FileHandle
from joinfs.filesystem.nodes import Node, moving
from joinfs.filesystem.state import Caller, Entry, State, is_told
from joinfs.stores import Stat
from joinfs.stores.keys import check_name
from joinfs.stores.value import new_stat

log = logging.getLogger(__name__)
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


class NamespaceVerbs(State):
    """Verbs that find and change names. Names are those of keys; SEMANTICS.md, Keys and paths."""

    # ---------------------------------------------------------------- finding

    def lookup(self, parent: int, name: str) -> Entry:
        """Answer the node of ``name`` in a directory, and count that the kernel knows it.

        Raises:
            KeyError: There is none.
            NameTooLong: No name is that long.
        """
        directory = self._directory(parent)
        self.watch(directory)
        return self._counted(self._nodes.find(directory, name, count=True))

    def walk(self, names: "tuple[str, ...] | list[str]") -> int:
        """Answer the node of a path from the root, and count nothing: for drivers that are given paths.

        Raises:
            KeyError: There is none.
            NotADirectory: Something on the way is not a directory.
        """
        node = self._nodes.root
        for name in names:
            if not node.is_directory:
                raise NotADirectory(name)
            node = self._nodes.find(node, name)
        return node.id

    def forget(self, node: int, count: int = 1) -> None:
        """Give back ``count`` of the lookups that were counted."""
        self._nodes.forget(self._nodes[node], count)

    def readlink(self, node: int) -> bytes:
        """Answer the target of a symlink."""
        found = self._nodes[node]
        if not found.is_symlink:
            raise InvalidArgument("not a symlink")
        return self._nodes.ask(found, self._store.to_bytes)

    # ---------------------------------------------------------------- making

    def symlink(self, parent: int, name: str, target: bytes, caller: Caller) -> Entry:
        """Make a symlink; the entry is counted as by ``lookup``."""
        return self._make(parent, name, stat_module.S_IFLNK | 0o777, caller, target=target)

    def mknod(self, parent: int, name: str, mode: int, rdev: int, caller: Caller, umask: int = 0) -> Entry:
        """Make a regular file, device, FIFO or socket; the entry is counted as by ``lookup``.

        ``umask`` here and below are bits that ``mode`` is not to have, unless the directory has a default ACL.
        """
        kind = stat_module.S_IFMT(mode) or stat_module.S_IFREG
        return self._make(parent, name, kind | stat_module.S_IMODE(mode), caller, rdev, umask=umask)

    def mkdir(self, parent: int, name: str, mode: int, caller: Caller, umask: int = 0) -> Entry:
        """Make a directory; the entry is counted as by ``lookup``."""
        return self._make(parent, name, stat_module.S_IFDIR | stat_module.S_IMODE(mode), caller, umask=umask)

    def create(self, parent: int, name: str, mode: int, flags: int, caller: Caller, umask: int = 0) -> tuple[Entry, int]:
        """Make a regular file and open it; the entry is counted as by ``lookup``.

        Raises:
            KeyExists: There is something already.
            StaleNode: The same, without ``O_EXCL``: who asks did not know. (The kernel then looks again, and opens that.)
        """
        self.check_writable()
        check_name(name)
        directory = self._directory(parent)
        try:
            return self._create(directory, name, mode, flags, caller, umask)
        except KeyExists as error:
            if flags & os.O_EXCL:
                raise
            raise StaleNode(f"{name!r} is there by now") from error

    def _create(self, directory: Node, name: str, mode: int, flags: int, caller: Caller, umask: int) -> tuple[Entry, int]:
        with self._making(directory, name):
            stat = self._new_stat(directory, stat_module.S_IFREG | stat_module.S_IMODE(mode), umask, caller)
            key = directory.prefix() + name
            made, descriptor = self._made_local(key, stat)
            entry = self._added(directory, name, made)
            node = self._nodes[entry.node]
            content = self._content(node)
            if descriptor is not None:
                content.take(descriptor)
            else:
                with self._undone(node, content):
                    content.open_new()
        return entry, self._files.add(FileHandle(node, content, flags))

    @contextlib.contextmanager
    def _undone(self, node: Node, content: Content) -> Iterator[None]:
        """Around opening a file that has just been made: if that fails, it was not made."""
        try:
            yield
        except BaseException:
            for directory, name in node.names:
                self._store.delete(directory.prefix() + name)
                with self._nodes.lock:
                    self._nodes.remove_name(directory, name)
            self._release(node, content)
            self._nodes.forget(node, 1)
            raise

    def _made_local(self, key: str, stat: Stat) -> tuple[Stat, int | None]:
        """Make a file, and open it if that is a local one."""
        if self._makes_local_files:
            try:
                return self._store.make_local(key, stat)
            except Unsupported:
                self._makes_local_files = False
        return self._store.make(key, stat), None

    def _make(
        self,
        parent: int,
        name: str,
        mode: int,
        caller: Caller,
        rdev: int = 0,
        target: bytes = b"",
        umask: int = 0,
    ) -> Entry:
        self.check_writable()
        check_name(name)
        directory = self._directory(parent)
        with self._making(directory, name):
            stat = self._new_stat(directory, mode, umask, caller, rdev)
            made = self._store.make(_key_in(directory, name, stat.is_directory), stat, target)
            return self._added(directory, name, made)

    def _new_stat(self, directory: Node, mode: int, umask: int, caller: Caller, rdev: int = 0) -> Stat:
        """Attributes of something new: in a set-group-ID directory the group is that of the directory.

        Where a directory has a default ACL that counts, and not the caller's umask; see acl(5).
        """
        default = self._default_acl(directory) if self._has_acls and not stat_module.S_ISLNK(mode) else b""
        if default:
            mode, _ = acl.inherited(default, mode, stat_module.S_ISDIR(mode))
        else:
            mode &= ~umask
        gid = caller.gid
        above = self._nodes.owned(directory)
        if above.mode & stat_module.S_ISGID:
            gid = above.gid
            if stat_module.S_ISDIR(mode):
                mode |= stat_module.S_ISGID
        return new_stat(mode, caller.uid, gid, rdev)

    def _default_acl(self, directory: Node) -> bytes:
        return self.foreign_xattrs(directory).get(acl.DEFAULT, b"")

    @contextlib.contextmanager
    def _making(self, directory: Node, name: str) -> Iterator[None]:
        """Around making something: where something is already, nothing else is believed of the name."""
        with self._nodes.changing:
            try:
                self._check_absent(directory, name)
                yield
            except KeyExists:
                with self._nodes.lock:
                    self._nodes.disbelieve(directory, name)
                raise

    def _check_absent(self, directory: Node, name: str) -> None:
        """Raise ``KeyExists`` if a name is known to be there; the store checks what is not known."""
        if directory.child(name) is not None:
            with contextlib.suppress(KeyError):
                self._nodes.find(directory, name)
                raise KeyExists(f"{name!r} is there already")

    def _added(self, directory: Node, name: str, stat: Stat) -> Entry:
        with self._nodes.lock:
            self._nodes.names_changed(directory, name)
            node = self._nodes.add_name(directory, name, stat)
            node.has_xattrs = self._has_acls and directory.has_xattrs  # it may have inherited an ACL, and else has none
            self._nodes.count(node)
        return Entry(node.id, node.attributes(stat), is_told(node))

    def link(self, node: int, new_parent: int, new_name: str) -> Entry:
        """Give a file a further name; the entry is counted as by ``lookup``."""
        self.check_writable()
        check_name(new_name)
        found, directory = self._nodes[node], self._directory(new_parent)
        if found.is_directory:
            raise NotPermitted("a directory has one name")
        with self._making(directory, new_name):
            stat = self._linked(found, _key_in(directory, new_name, False))
            with self._nodes.lock:
                self._nodes.names_changed(directory, new_name)
                self._nodes.adopt(found, directory, new_name)
                self._nodes.changed(found)
                self._nodes.update(found, stat)
            return self._entry(found)

    def _linked(self, node: Node, key: str) -> Stat:
        content = node.content
        if node.is_unlinked:
            # linkat(2) of an O_TMPFILE; the kernel sees to it that it is nothing else.
            self._check_current(node)
            assert content is not None, "it has one if it is current"
            return content.put(key)
        if content is not None:
            content.commit()
        self._nodes.will_copy(node.known_size)
        return self._store.link(node.key(), key)

    def tmpfile(self, parent: int, mode: int, flags: int, caller: Caller, umask: int = 0) -> tuple[Entry, int]:
        """Make a regular file without a name and open it; the entry is counted as by ``lookup``.

        See Also:
            O_TMPFILE in open(2).
        """
        self.check_writable()
        directory = self._directory(parent)
        stat = self._new_stat(directory, stat_module.S_IFREG | stat_module.S_IMODE(mode), umask, caller)
        node = self._nodes.add_unnamed(stat, directory.prefix())
        content = self._content(node)
        with self._undone(node, content):
            content.open_to_write(truncate=True)
        return Entry(node.id, self._attributes(node)), self._files.add(FileHandle(node, content, flags))

    # ---------------------------------------------------------------- removing

    def unlink(self, parent: int, name: str) -> None:
        """Remove a name that is not a directory's. Who has the file open keeps it."""
        self.check_writable()
        directory = self._directory(parent)
        with self._nodes.changing:
            node = self._nodes.known(directory, name)
            if node.is_directory:
                raise IsADirectory(f"{name!r} is a directory")
            self._remove(directory, name, node)

    def rmdir(self, parent: int, name: str) -> None:
        """Remove an empty directory."""
        self.check_writable()
        directory = self._directory(parent)
        with self._nodes.changing:
            node = self._nodes.known(directory, name)
            if not node.is_directory:
                raise NotADirectory(f"{name!r} is not a directory")
            self._remove(directory, name, node)

    def _remove(self, directory: Node, name: str, node: Node) -> None:
        with contextlib.suppress(StaleNode):  # others' changes have taken its name from it meanwhile: what is there, the store says
            self._before_losing(node)
        self._store.delete(_key_in(directory, name, node.is_directory))
        with self._nodes.lock:
            self._nodes.remove_name(directory, name)
        self._after_losing(node)

    def _before_losing(self, node: Node) -> None:
        """A name of the node goes: if it is the last, open handles must not need it; if not, it must be whole."""
        if node.is_directory:
            self._nodes.refresh(node)  # who stands in it goes on seeing what it was
        content = node.content  # it may be closed meanwhile
        if content is not None:
            stat = self._nodes.refresh(node)
            if len(node.names) > 1 or (stat.nlink > 1 and content.will_stage):
                if len(node.names) == 1:
                    content.open_to_write()  # while there is a name to copy it from
                content.commit()
            else:
                content.keep()

    def _after_losing(self, node: Node) -> None:
        """What is written goes on to the file's other names, if it has any; what nobody has open goes."""
        content = node.content
        if content is None:
            return
        if node.is_unlinked and node.stat is not None and node.stat.nlink > 0 and content.is_for_others:
            try:
                self._nodes.name_again(node)
            except (JoinfsError, OSError) as error:
                log.warning("the other names of a file that is open were not found: %s", error)
            if node.is_unlinked:
                content.was_lost()
        self._let_go(node, content)

    # ---------------------------------------------------------------- renaming

    def rename(self, parent: int, name: str, new_parent: int, new_name: str, flags: int = 0) -> None:
        """Move a name, over what is there.

        Args:
            flags: 0, ``RENAME_NOREPLACE`` or ``RENAME_EXCHANGE``, as renameat2(2) has them.
        """
        self.check_writable()
        check_name(new_name)
        directory, new_directory = self._directory(parent), self._directory(new_parent)
        if flags not in {0, RENAME_NOREPLACE, RENAME_EXCHANGE}:
            raise InvalidArgument(f"rename flags {flags:#x}")
        with self._nodes.changing:
            node = self._nodes.known(directory, name)
            target = self._find_or_none(new_directory, new_name)
            if flags == RENAME_NOREPLACE and target is not None:
                raise KeyExists(f"{new_name!r} is there already")
            self._check_not_inside(node, new_directory)
            self._nodes.will_copy(node.known_size)  # up, if it is a lower store's
            if flags == RENAME_EXCHANGE:
                self._exchange(node, directory, name, new_directory, new_name)
            elif node is not target:
                self._move(node, directory, name, new_directory, new_name, target)

    def _find_or_none(self, directory: Node, name: str) -> Node | None:
        try:
            return self._nodes.find(directory, name)
        except KeyError:
            return None

    def _check_not_inside(self, node: Node, directory: Node) -> None:
        above = directory
        while above.parent is not None:
            if above is node:
                raise InvalidArgument("a directory cannot be moved into itself")
            above = above.parent

    def _move(
        self, node: Node, directory: Node, name: str, new_directory: Node, new_name: str, target: Node | None
    ) -> None:
        if target is not None:
            self._check_replaceable(node, target)
            self._before_losing(target)
        old = _key_in(directory, name, node.is_directory)
        with moving(node) if target is None else moving(node, target):
            self._store.rename(old, _key_in(new_directory, new_name, node.is_directory))
            with self._nodes.lock:
                if target is not None:
                    self._nodes.remove_name(new_directory, new_name)
                self._nodes.move_name(directory, name, new_directory, new_name)
        if target is not None:
            self._after_losing(target)

    def _check_replaceable(self, node: Node, target: Node) -> None:
        if node.is_directory and not target.is_directory:
            raise NotADirectory("a directory cannot replace what is not one")
        if target.is_directory and not node.is_directory:
            raise IsADirectory("only a directory can replace a directory")
        if target.is_directory and any(True for _ in self._store.list(target.key())):
            raise DirectoryNotEmpty("the directory to be replaced has entries")

    def _exchange(self, node: Node, directory: Node, name: str, other_directory: Node, other_name: str) -> None:
        other = self._nodes.known(other_directory, other_name)
        self._check_not_inside(other, directory)
        if node is other:
            return
        keys = _key_in(directory, name, node.is_directory), _key_in(other_directory, other_name, other.is_directory)
        with moving(node, other):
            self._store.exchange(*keys)
            with self._nodes.lock:
                if directory.child(name) is node and other_directory.child(other_name) is other:
                    self._nodes.swap_names(directory, name, other_directory, other_name)
                else:
                    self._nodes.names_changed(directory, name)
                    self._nodes.names_changed(other_directory, other_name)


def _key_in(directory: Node, name: str, is_directory: bool) -> str:
    return directory.prefix() + name + ("/" if is_directory else "")


def access_allowed(stat: Stat, mask: int, uid: int, gids: "frozenset[int]") -> bool:
    """Whether permission bits allow ``mask`` (of ``os.R_OK``, ``W_OK``, ``X_OK``) to a caller."""
    if uid == 0:
        return not mask & os.X_OK or stat.is_directory or bool(stat.mode & 0o111)
    shift = 6 if uid == stat.uid else 3 if stat.gid in gids else 0
    return (stat.mode >> shift) & mask == mask
