"""Archives of other kinds than zip and tar, as stores that take no writes: 7z, rar, cpio, ISO 9660, ar, ..."""

import contextlib
import functools
import os
from typing import Any

from joinfs.errors import NotConnected
from joinfs.stores.archive_index import ArchiveIndex, Places, components, targets
from joinfs.stores.indexed import IndexedStore
from joinfs.stores.libarchive import Cursor, Member, version
from joinfs.stores.passing import OpenMembers
from joinfs.stores.random_access import PlainFile, RandomAccess
from joinfs.stores.value import READ_ONLY, Stat


class ArchiveStore(IndexedStore):
    """An archive that libarchive reads: 7z, rar, cpio, rpm, ISO 9660, ar and deb, xar, cab, lha, tar with any compression.

    Members have what the archive tells of them: modes, owners, times, symlinks, hard links, devices and attributes;
    ``user.`` attributes are metadata. What has no owner there is whose the process is. Names are as in ``TarStore``.

    Data can only be read forward, and in many kinds of archive only with all that is before it; see ``passing`` for
    what that costs. Memory is what libarchive needs for the archive, at most some six times, and some mebibytes.

    Args:
        path, event_manager, read_only: As for ``IndexedStore``.
    """

    capabilities = READ_ONLY._replace(hard_links=True, xattrs=True)
    scheme = "archive"

    def __init__(self, path: str | os.PathLike[str], event_manager: Any = None, read_only: bool = True) -> None:
        super().__init__(path, event_manager, read_only)
        self._members: OpenMembers | None = None

    def disconnect(self) -> None:
        if self._members is not None:
            self._members.close()
        self._members = None
        super().disconnect()

    def is_connected(self) -> bool:
        return self._members is not None and super().is_connected()

    def connect(self, credentials: Any = None) -> None:
        if not self.is_connected():
            super().connect(credentials)
            index, file = self._opened()
            try:
                with index._reading() as db:
                    (count,) = db.execute("SELECT max(id) FROM node").fetchone()
            except BaseException:
                self.disconnect()
                raise
            self._members = OpenMembers(functools.partial(self._begin, file), file, self.name, count)

    def _begin(self, file: RandomAccess) -> Cursor:
        """Answer a new cursor, over the file that was there when the store was connected, whatever has its name now."""
        assert isinstance(file, PlainFile)
        return Cursor(file.path_again(), self.name)

    # ---------------------------------------------------------------- the index

    def _made_by(self) -> str:
        return f"{self.scheme} {version()}"  # another one might put the members into another order

    def _build(self, file: RandomAccess, index: ArchiveIndex) -> None:
        with contextlib.closing(self._begin(file)) as cursor:
            while cursor.go_to(cursor.number + 1):
                _take_in(index, file, cursor, cursor.member(self._default_owner()))
        index.link_late()

    def _read(self, file: RandomAccess, stat: Stat, places: Places, offset: int, size: int) -> bytes:
        """The same. The place is ``(number of the member,)``, and where its data begins, if it is in the file as it is."""
        if self._members is None:
            raise NotConnected(f"{self.name} is not connected")
        if not places:
            return b""
        number, *start = places[0]
        return file.read_at(start[0] + offset, size) if start else self._members.read(number, stat.size, offset, size)


def _take_in(index: ArchiveIndex, file: RandomAccess, cursor: Cursor, member: Member) -> None:
    """A member, which the cursor stands at, into the index."""
    parts = components(member.name)
    stat = member.stat
    if stat.is_directory:
        index.put_directory(parts, stat, member.metadata, member.xattrs)
        return
    start = cursor.start(file) if stat.is_file and stat.size else None
    if stat.is_file and not member.sized and member.link is None:
        stat = stat._replace(size=cursor.count())
    parts = parts or [member.name]  # it is called like the root
    places: Places = [(cursor.number,) if start is None else (cursor.number, start)]
    if member.link is not None:
        if any(index.link(parts, target, stat.size, places) for target in targets(member.link)):
            return
        if not stat.size:
            index.leave_out(member.name, member.link)
            return
    inline = (member.target or "").encode("utf-8", "surrogateescape")
    index.put(parts, stat, places if stat.is_file else inline, member.metadata, member.xattrs)
