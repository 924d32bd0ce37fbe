"""A first store's changes as a layer of a container image, or as a zip archive; or the whole of a join as either.

A layer has what was added or modified, whole, with the directories that it is in, and a whiteout ``.wh.NAME`` for each thing that was
deleted. Redirects and copies without data, which are joinfs's own, are written out: a directory that was renamed is all there under its new
name. A zip archive has the same names. The same changes give the same bytes.

See Also:
    OCI image-spec, layer.md; pax(1), Extended Header; APPNOTE.TXT, 4.4.15 (attributes), 4.5 (extra fields).
"""

import contextlib
import gzip
import io
import os
import shutil
import stat as stat_module
import struct
import tarfile
import time
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, Self

from joinfs.errors import UsageError
from joinfs.joined.difference import DELETED, RENAMED, Difference
from joinfs.joined.store import JoinedStore
from joinfs.joined.whiteout import PREFIX, WHITEOUT_MODE
from joinfs.stores import Stat, Store
from joinfs.stores.keys import ROOT, ancestors, is_directory_key, split
from joinfs.stores.metadata import to_bytes
from joinfs.stores.progress import Work
from joinfs.stores.trees import below
from joinfs.stores.value import MEBIBYTE, NANOSECONDS
from joinfs.stores.whole import whole

FORMATS = ("tar", "tar.gz", "zip")
_WHITEOUT = Stat(WHITEOUT_MODE)
_KINDS = {
    stat_module.S_IFREG: tarfile.REGTYPE,
    stat_module.S_IFDIR: tarfile.DIRTYPE,
    stat_module.S_IFLNK: tarfile.SYMTYPE,
    stat_module.S_IFCHR: tarfile.CHRTYPE,
    stat_module.S_IFBLK: tarfile.BLKTYPE,
    stat_module.S_IFIFO: tarfile.FIFOTYPE,
}
# What zip archives of Unix have: what made it, the bit of DOS for a directory, the fields for a time and for owners, the first and last year.
_UNIX, _DOS_DIRECTORY, _TIME, _OWNER, _YEARS = 3, 0x10, 0x5455, 0x7875, (1980, 2107)
_TIMES = range(-(1 << 31), 1 << 31)


class Entry(NamedTuple):
    """What goes into the archive: a key and its attributes. ``is_whiteout`` says that there is nothing behind it."""

    key: str
    stat: Stat
    is_whiteout: bool = False


def export(join: JoinedStore, file: BinaryIO, form: str = "tar", *, everything: bool = False) -> list[str]:
    """Write the changes of a join's first store to an archive, as a layer. Emits StoreProgress events, which count bytes.

    Args:
        join: Connected; if somebody writes to it meanwhile, what is written may be in it or not.
        file: Where it is written; it need not be seekable.
        form: ``tar``, ``tar.gz`` or ``zip``.
        everything: Write all that is in the join, and no whiteouts.

    Returns:
        The keys that an archive of that form cannot have: sockets; in a zip archive devices, FIFOs, and names that are not UTF-8.

    Raises:
        UsageError: There is no such form; or no store below the first, and so no changes.

    After a failure something of it has been written.
    """
    if form not in FORMATS:
        raise UsageError(f"{form!r} is no form of archive that can be exported; there are {', '.join(FORMATS)}")
    entries = [Entry(key, stat) for key, stat in below(join, ROOT)] if everything else list(_of_changes(join))
    with contextlib.ExitStack() as closing:
        work = closing.enter_context(Work(join, "exporting", sum(entry.stat.size for entry in entries if not entry.stat.is_directory)))
        add = (
            closing.enter_context(_Zip(join, file)).add
            if form == "zip"
            else closing.enter_context(_Tar(join, file, compressed=form == "tar.gz")).add
        )
        left_out = []
        for entry in entries:
            try:
                is_added = add(entry)
            except KeyError:  # others have removed it meanwhile
                continue
            if is_added:
                work.advance(0 if entry.stat.is_directory else entry.stat.size)
            else:
                left_out.append(entry.key)
    return left_out


def _of_changes(join: JoinedStore) -> Iterator[Entry]:
    whole_trees: list[str] = []
    told: set[str] = set()
    changes = list(Difference(join).changes())
    for change in changes:
        if change.kind == RENAMED:
            yield from _hidden(join, change.below, told)
    for change in changes:
        if change.kind == DELETED:
            if not _is_in(change.key, whole_trees):
                yield from _hidden(join, change.below, told)
            continue
        yield from _with_directories(join, change.key, told)
        if change.kind == RENAMED and is_directory_key(change.key):
            whole_trees.append(change.key)
            with contextlib.suppress(KeyError):  # others have moved it meanwhile
                for key, _ in below(join, change.key):
                    yield from _with_directories(join, key, told)


def _is_in(key: str, directories: list[str]) -> bool:
    return any(key.startswith(directory) and key != directory for directory in directories)


def _hidden(join: JoinedStore, key: str, told: set[str]) -> Iterator[Entry]:
    """A whiteout, and the directories that it is in; none if one of these is not there, which is what is hidden then."""
    directory, name = split(key)
    if join.exists(directory):
        yield from _with_directories(join, directory, told)
        yield Entry(f"{directory}{PREFIX}{name}", _WHITEOUT, is_whiteout=True)


def _with_directories(join: JoinedStore, key: str, told: set[str]) -> Iterator[Entry]:
    for place in [*ancestors(key), *([key] if key != ROOT else [])]:
        if place not in told:
            told.add(place)
            with contextlib.suppress(KeyError):  # others have removed it meanwhile
                yield Entry(place, join.stat(place))


class _Tar:
    """A tar archive, in the pax format: nanoseconds, names and attributes of any length."""

    def __init__(self, store: Store, file: BinaryIO, compressed: bool) -> None:
        self._store, self._file, self._compressed = store, file, compressed
        self._linked: dict[int, str] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as closing:
            file: Any = self._file
            if self._compressed:  # without the time, so that the bytes are the same next time
                file = closing.enter_context(gzip.GzipFile(fileobj=self._file, mode="wb", mtime=0))
            self._archive = closing.enter_context(
                tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape")
            )
            self._closing = closing.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if exc_info[0] is None:
            self._closing.close()

    def add(self, entry: Entry) -> bool:
        """Add what is at a key; False if that cannot be."""
        stat, kind = entry.stat, _KINDS.get(entry.stat.kind)
        if kind is None:
            return False
        member = _member(entry, kind)
        if entry.is_whiteout:
            self._archive.addfile(member, io.BytesIO())
            return True
        number = stat.linked_id
        first = None if number is None else self._linked.setdefault(number, entry.key)
        if first is not None and first != entry.key:
            member.type, member.linkname, member.size = tarfile.LNKTYPE, first, 0
            self._archive.addfile(member)
            return True
        member.pax_headers = {**member.pax_headers, **self._attributes(entry.key)}
        if stat.is_symlink:
            member.linkname = os.fsdecode(self._store.to_bytes(entry.key))
        if not stat.is_file:
            self._archive.addfile(member)
            return True
        with contextlib.closing(self._store.get(entry.key)) as value:
            data = whole(value, f"{entry.key!r} in {self._store.name}")
            member.size = value.size
            self._archive.addfile(member, data)
        return True

    def _attributes(self, key: str) -> dict[str, str]:
        """Extended attributes as headers; metadata among them."""
        found = {f"user.{name}": to_bytes(value) for name, value in self._store.get_metadata(key).items()}
        found.update(self._store.get_xattrs(key))
        return {f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape") for name, value in sorted(found.items())}


def _member(entry: Entry, kind: bytes) -> tarfile.TarInfo:
    stat = entry.stat
    member = tarfile.TarInfo(entry.key.removesuffix("/"))
    member.type, member.mode, member.uid, member.gid = kind, stat.mode & 0o7777, stat.uid, stat.gid
    seconds, rest = divmod(stat.mtime, NANOSECONDS)
    member.mtime = seconds
    if rest:
        member.pax_headers = {"mtime": _decimal(stat.mtime)}
    if kind in {tarfile.CHRTYPE, tarfile.BLKTYPE}:
        member.devmajor, member.devminor = os.major(stat.rdev), os.minor(stat.rdev)
    return member


def _decimal(nanoseconds: int) -> str:
    sign = "-" if nanoseconds < 0 else ""
    return f"{sign}{abs(nanoseconds) // NANOSECONDS}.{abs(nanoseconds) % NANOSECONDS:09}"


class _Zip:
    """A zip archive as Info-ZIP makes them: with modes, owners and seconds; extended attributes and hard links it does not have."""

    def __init__(self, store: Store, file: BinaryIO) -> None:
        self._store = store
        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if exc_info[0] is None:
            self._archive.close()

    def add(self, entry: Entry) -> bool:
        """Add what is at a key; False if that cannot be."""
        stat = entry.stat
        if not (stat.is_directory or stat.is_file or stat.is_symlink) or not _is_text(entry.key):
            return False
        info = _info(entry)
        if entry.is_whiteout or stat.is_directory:
            self._archive.writestr(info, b"")
            return True
        with contextlib.closing(self._store.get(entry.key)) as value, self._archive.open(info, "w", force_zip64=value.size >= 1 << 31) as file:
            shutil.copyfileobj(whole(value, f"{entry.key!r} in {self._store.name}"), file, MEBIBYTE)
        return True


def _is_text(key: str) -> bool:
    """Whether a name can be in a zip archive, which has them in UTF-8."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _info(entry: Entry) -> zipfile.ZipInfo:
    stat = entry.stat
    seconds = stat.mtime // NANOSECONDS
    moment = time.gmtime(seconds)
    info = zipfile.ZipInfo(entry.key, moment[:6] if _YEARS[0] <= moment[0] <= _YEARS[1] else (_YEARS[0], 1, 1, 0, 0, 0))
    info.create_system, info.compress_type = _UNIX, zipfile.ZIP_DEFLATED
    info.external_attr = stat.mode << 16 | (_DOS_DIRECTORY if stat.is_directory else 0)
    if seconds in _TIMES:
        info.extra += struct.pack("<HHBi", _TIME, 5, 1, seconds)
    info.extra += struct.pack("<HHBBIBI", _OWNER, 11, 1, 4, stat.uid, 4, stat.gid)
    return info
