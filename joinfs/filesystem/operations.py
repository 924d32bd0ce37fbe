"""The kernel's verbs in terms of nodes, over any store.

This is what a driver calls. Node numbers, handles and tuples go in and out; what goes wrong comes out as
``KeyError``, a ``JoinfsError`` or an ``OSError``, which ``errors.errno_of`` turns into a number. Every
method may be called from several threads at once where ``is_thread_safe`` says so.

The verbs are in modules by what they act on: names in ``namespace``, open files in ``io``, open
directories in ``directories``, extended attributes in ``xattrs``; attributes are here.
"""

import logging
import os
import pwd
from collections.abc import Callable

from joinfs.errors import InvalidArgument, IsADirectory, JoinfsError, PermissionDenied
from joinfs.filesystem.attributes import Attributes, attributes_of
from joinfs.filesystem.directories import DirectoryVerbs
from joinfs.filesystem.io import FileVerbs
from joinfs.filesystem.namespace import NamespaceVerbs, access_allowed
from joinfs.filesystem.nodes import ROOT, Node
from joinfs.filesystem.standing import Standing
from joinfs.filesystem.state import NOW, Caller, DirectoryEntry, Entry, ListedNode, Settings, is_told
from joinfs.filesystem.xattrs import XattrVerbs
from joinfs.stores import Usage
from joinfs.stores.value import now

__all__ = ["NOW", "ROOT", "Attributes", "Caller", "DirectoryEntry", "Entry", "ListedNode", "Operations", "Settings"]


log = logging.getLogger(__name__)

# What is told of a store without bounds, a pebibyte: programs that look for room before they write would not begin with none.
_BLOCKS, _FILES = 1 << 38, 1 << 32
UNBOUNDED = Usage(4096, _BLOCKS, _BLOCKS, _BLOCKS, _FILES, _FILES)


class Operations(Standing, NamespaceVerbs, FileVerbs, DirectoryVerbs, XattrVerbs):
    """A mounted file system."""

    def getattr(self, node: int, handle: int | None = None) -> Attributes:
        """Answer the attributes of a node.

        Raises:
            KeyError: It has gone.
        """
        return self._attributes(self._nodes[node])

    def is_told(self, node: int) -> bool:
        """Whether the driver will be told if others change a node."""
        return is_told(self._nodes[node])

    def setattr(
        self,
        node: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime: int | None = None,
        mtime: int | None = None,
        handle: int | None = None,
        kill_suidgid: bool = False,
        keeps_times: bool = False,
    ) -> Attributes:
        """Change attributes of a node and answer all of them.

        Args:
            mode: Permission bits.
            uid, gid: Owner.
            size: Bytes to cut or lengthen the data to.
            atime, mtime: Nanoseconds, or ``NOW``. None, here and above, is "leave".
            handle: An open handle on the node, if the kernel gave one.
            kill_suidgid: Take the set-user-ID bit away, and the set-group-ID bit; a change of owner does so anyway.
            keeps_times: It is the kernel's own time of change, which it keeps where it caches writes: if it is no other, nothing is
                changed. (It says so after a name of a file was removed, and that copies up none.)
        """
        self.check_writable()
        found = self._nodes[node]
        if size is not None:
            self._truncate(found, size)
        if kill_suidgid or (found.is_file and mode is None and (uid is not None or gid is not None)):
            self.kill_suidgid(node)
        if keeps_times and mtime == self._attributes(found).mtime:
            return self._attributes(found)
        moment = now()
        times = {"atime": moment if atime == NOW else atime, "mtime": moment if mtime == NOW else mtime}
        wanted = {"mode": mode, "uid": uid, "gid": gid, **times}
        changes = {name: value for name, value in wanted.items() if value is not None}
        stat = self._change(found, changes) if changes else None
        if stat is None:
            return self._attributes(found)
        return attributes_of(found.ino, stat, stat.nlink)

    def _truncate(self, node: Node, size: int) -> None:
        if node.is_directory:
            raise IsADirectory("a directory has no length to set")
        if size < 0 or not node.is_file:
            raise InvalidArgument(f"cannot be {size} bytes long")
        self._check_current(node)
        content = self._content(node)
        try:
            content.truncate(size)
            if content.handles == 1:
                content.commit()
        finally:
            self._release(node, content)

    def access(self, node: int, mask: int, caller: Caller) -> None:
        """Return if permission bits allow ``mask`` to the caller.

        Raises:
            PermissionDenied: They do not.
        """
        found = self._nodes[node]
        stat = self._nodes.refresh(found)
        if found.content is not None:
            stat = found.content.current(stat)
        if mask & os.W_OK and (stat.is_file or stat.is_directory):
            self.check_writable()
        if not access_allowed(stat, mask & 7, caller.uid, _groups(caller)):
            raise PermissionDenied("the permission bits do not allow it")

    @property
    def is_thread_safe(self) -> bool:
        """Whether verbs may be called from several threads at once."""
        return self._store.capabilities.thread_safe

    @property
    def may_wait(self) -> bool:
        """Whether any verb may have to wait for a store that is slow to answer."""
        return self._store.capabilities.slow

    @property
    def can_have_acls(self) -> bool:
        """Whether the store can keep POSIX ACLs."""
        return self._store.capabilities.acls

    def before_waiting(self, told: Callable[[], None]) -> None:
        """Have ``told`` called by a thread that calls a verb, before it waits for another verb or copies much."""
        self._nodes.before_waiting = told

    def have_acls(self) -> None:
        """Take POSIX ACLs from now on: the driver sees to it that somebody enforces them. Without that they are refused."""
        self._has_acls = True

    def is_watched(self, node: int) -> bool:
        """Whether the driver will be told of names that others make in a directory."""
        return bool(self._nodes[node].watched)

    def statfs(self) -> Usage:
        """Answer how much room there is."""
        usage = self._store.usage()
        is_writable = self._store.capabilities.writable and not self._settings.read_only
        return UNBOUNDED if is_writable and not usage.blocks else usage

    def close(self) -> None:
        """Commit all staged data and let go of all content.

        What cannot be committed is kept: ``close`` can be called again, and if it is not, ``Staging`` has it.

        Raises:
            JoinfsError, OSError: The first thing that could not be committed, after all were tried.
        """
        self._ahead.close()
        failed: list[JoinfsError | OSError] = []
        for node in self._nodes.opened():
            content = node.content
            if content is None:
                continue
            try:
                content.commit()
            except (JoinfsError, OSError) as error:
                log.error("what was written to %s could not be committed: %s", content.name, error)
                failed.append(error)
            else:
                content.close()
        if failed:
            raise failed[0]
        self._staging.close()


def _groups(caller: Caller) -> frozenset[int]:
    """The groups of a caller; those that it has beyond its user's are not known here."""
    try:
        user = pwd.getpwuid(caller.uid)
    except KeyError:
        return frozenset({caller.gid})
    return frozenset(os.getgrouplist(user.pw_name, caller.gid))
