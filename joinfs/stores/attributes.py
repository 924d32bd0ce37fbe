"""Attributes of a file of the host: owner, mode, times, metadata and foreign extended attributes.

Metadata are the attributes ``user.NAME``. Which of them are not text but other JSON values is in
``user.joinfs.types``, a JSON list of names: an attribute alone cannot tell ``5`` from ``"5"``.
"""

import contextlib
import errno
import json
import os
import stat as stat_module
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from joinfs.errors import NameTooLong, NoSuchAttribute, OutOfSpace, Unsupported
from joinfs.stores.directory_files import decode, inside
from joinfs.stores.metadata import has_all, to_bytes
from joinfs.stores.value import Metadata, Stat

_USER = "user."
_TYPES = "user.joinfs.types"
_parse = json.JSONDecoder().decode
_NOT_KEPT = {errno.ENOTSUP, errno.EPERM, errno.EACCES}
Place = str | bytes | int
# Two who gave one file another mode at once would take each other's for its own.
_AGAINST_MODES = threading.Lock()


def _xattr_name(name: str) -> bytes:
    return (_USER + name).encode("utf-8", "surrogateescape")


def _through(descriptor: int) -> str:
    """A path to what a descriptor is open on, also where it was opened with ``O_PATH``."""
    return f"/proc/self/fd/{descriptor}"


@contextlib.contextmanager
def against_mode(descriptor: int) -> Iterator[None]:
    """Have all rights to our own file or directory, which a descriptor is on, whatever its mode; for a moment it has another.

    What we hold is what somebody has who has just made a file with mode 0444. Whether a caller may was the mount's to check.

    Raises:
        PermissionError: It is not ours.
    """
    with _AGAINST_MODES:
        native = os.fstat(descriptor)
        wanted = stat_module.S_IRWXU if stat_module.S_ISDIR(native.st_mode) else stat_module.S_IRUSR | stat_module.S_IWUSR
        if native.st_uid != os.geteuid():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        os.chmod(_through(descriptor), stat_module.S_IMODE(native.st_mode) | wanted)
        try:
            yield
        finally:
            os.chmod(_through(descriptor), stat_module.S_IMODE(native.st_mode))


def _read(place: Place, name: str | bytes, **how: bool) -> bytes:
    """An extended attribute; of our own file or directory also against its mode, as marks may be in it."""
    try:
        return os.getxattr(place, name, **how)
    except PermissionError:
        if isinstance(place, int):
            with against_mode(place):
                return os.getxattr(place, name)
        descriptor = os.open(place, os.O_PATH | (0 if how.get("follow_symlinks", True) else os.O_NOFOLLOW))
        try:
            with against_mode(descriptor):
                return os.getxattr(place, name, **how)
        finally:
            os.close(descriptor)


class FileAttributes:
    """Reads and writes them. Files are given by descriptor, or by directory and name where they may be symlinks."""

    def __init__(self, store_name: str) -> None:
        self._store_name = store_name

    def are_of_a_mount(self, descriptor: int) -> bool:
        """Whether a directory is in a mount of joinfs, which has attributes of its own and keeps names for its marks."""
        try:
            os.getxattr(descriptor, "user.joinfs.store")
        except OSError:
            return False
        return True

    def are_kept_by(self, descriptor: int) -> bool:
        """Whether the file system of ``descriptor`` has ``user.`` attributes at all."""
        try:
            os.getxattr(descriptor, _TYPES)
        except OSError as error:
            return error.errno not in {errno.ENOTSUP, errno.ENOSYS}
        return True

    def are_acls_kept_by(self, descriptor: int) -> bool:
        """Whether the file system of ``descriptor`` has POSIX ACLs."""
        try:
            os.getxattr(descriptor, "system.posix_acl_access")
        except OSError as error:
            return error.errno == errno.ENODATA
        return True

    # ---------------------------------------------------------------- reading

    def _all(self, place: Place, prefix_wanted: bool, follow: bool = False) -> dict[str, bytes]:
        """The attributes in ``user.``, or those outside it; of a symlink's own unless it is to be followed."""
        how = {} if follow or isinstance(place, int) else {"follow_symlinks": False}
        found = {}
        try:
            names = os.listxattr(place, **how)
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                return {}
            raise
        for raw in names:
            if raw.startswith(_USER) == prefix_wanted:
                with contextlib.suppress(OSError):  # gone since, or not ours to read
                    found[decode(raw)] = _read(place, raw, **how)
        return found

    def metadata_through(self, descriptor: int, stat: Stat) -> Metadata:
        """The metadata of what an ``O_PATH`` descriptor is on; symlinks and special files have none."""
        if not (stat.is_file or stat.is_directory):
            return {}
        return self._decoded(self._all(_through(descriptor), prefix_wanted=True, follow=True))

    def metadata_in(self, directory: int, name: bytes, stat: Stat) -> Metadata:
        """The metadata of a name in a directory; symlinks and special files have none."""
        if not (stat.is_file or stat.is_directory):
            return {}
        return self._decoded(self._all(inside(directory, name), prefix_wanted=True))

    def metadata_called(self, directory: int, name: bytes, stat: Stat, names: Iterable[str]) -> Metadata:
        """As much of the metadata of a name in a directory as is called that; asked for by name, as most have none of it."""
        found: dict[str, bytes] = {}
        place = inside(directory, name)
        for wanted in names if stat.is_file or stat.is_directory else ():
            with contextlib.suppress(OSError, ValueError):  # it has none of that name, or there can be none
                found[wanted] = _read(place, _xattr_name(wanted), follow_symlinks=False)
        if found:
            with contextlib.suppress(OSError):
                found[_TYPES] = _read(place, _TYPES, follow_symlinks=False)
        return self._decoded({name if name == _TYPES else _USER + name: data for name, data in found.items()})

    def metadata_of(self, descriptor: int) -> Metadata:
        """The metadata of an open regular file or directory."""
        return self._decoded(self._all(descriptor, prefix_wanted=True))

    def matching(self, directory: int, name: bytes, wanted: Mapping[str, Any]) -> Metadata | None:
        """The metadata of a file in a directory if it has all that is wanted, else None."""
        place = inside(directory, name)
        try:
            for key, value in wanted.items():
                data = os.getxattr(place, _xattr_name(key), follow_symlinks=False)
                if isinstance(value, str) and data != to_bytes(value):
                    return None
            metadata = self._decoded(self._all(place, prefix_wanted=True))
        except (OSError, ValueError, Unsupported):  # it has none of that name, or nothing has; or it is gone
            return None
        return metadata if has_all(metadata, wanted) else None

    def _decoded(self, raw: dict[str, bytes]) -> Metadata:
        typed = _typed_names(raw.pop(_TYPES, b""))
        return {
            name[5:]: _json_or_text(data) if name[5:] in typed else data.decode("utf-8", "surrogateescape")
            for name, data in raw.items()
        }

    def foreign(self, directory: int, name: bytes) -> dict[str, bytes]:
        """The attributes of a name outside ``user.``."""
        return self._all(inside(directory, name), prefix_wanted=False)

    # ---------------------------------------------------------------- writing

    def apply(self, descriptor: int, stat: Stat, metadata: Metadata, xattrs: dict[str, bytes]) -> None:
        """Give an open file owner, mode, attributes and times, in the order in which they survive each other."""
        native = os.fstat(descriptor)
        if (native.st_uid, native.st_gid) != (stat.uid, stat.gid):
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, stat.uid, stat.gid)
        for name, data in self._encoded(metadata).items():
            self._set(descriptor, name, data)
        self._set_all_foreign(descriptor, xattrs)
        os.fchmod(descriptor, stat_module.S_IMODE(stat.mode))  # after those: it may take the right to write away
        os.utime(descriptor, ns=(stat.atime, stat.mtime))

    def apply_at(
        self, directory: int, name: bytes, stat: Stat, metadata: Metadata, xattrs: dict[str, bytes]
    ) -> None:
        """The same for a name that is new, and may be a symlink or a special file."""
        if stat.is_directory:
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                self.apply(descriptor, stat, metadata, xattrs)
            finally:
                os.close(descriptor)
            return
        with contextlib.suppress(PermissionError):
            os.chown(name, stat.uid, stat.gid, dir_fd=directory, follow_symlinks=False)
        if not stat.is_symlink:
            os.chmod(inside(directory, name), stat_module.S_IMODE(stat.mode))
        self._set_all_foreign(inside(directory, name), xattrs)
        os.utime(name, ns=(stat.atime, stat.mtime), dir_fd=directory, follow_symlinks=False)

    def _set_all_foreign(self, place: Place, xattrs: dict[str, bytes]) -> None:
        """Set what the host lets us; the rest is left out, as ``Store.put`` says."""
        follow = {} if isinstance(place, int) else {"follow_symlinks": False}
        for name, value in xattrs.items():
            try:
                os.setxattr(place, name, value, **follow)
            except OSError as error:
                if error.errno not in _NOT_KEPT:
                    raise

    def _encoded(self, metadata: Metadata) -> dict[bytes, bytes]:
        encoded = {_xattr_name(name): to_bytes(value) for name, value in metadata.items()}
        typed = sorted(name for name, value in metadata.items() if not isinstance(value, str))
        if typed:
            encoded[_TYPES.encode()] = json.dumps(typed).encode()
        return encoded

    def _set(self, place: Place, name: bytes, data: bytes) -> None:
        try:
            os.setxattr(place, name, data)
        except OSError as error:
            if error.errno in {errno.ENOTSUP, errno.EPERM}:
                raise Unsupported(f"{self._store_name} cannot hold metadata here") from error
            shown = name.decode("utf-8", "surrogateescape").removeprefix(_USER)
            if error.errno == errno.ERANGE:
                raise NameTooLong(f"{self._store_name} holds no metadata of so long a name as {shown!r}") from error
            if error.errno in {errno.ENOSPC, errno.E2BIG, errno.EDQUOT}:
                raise OutOfSpace(
                    f"{self._store_name} has no room for so much metadata on one key: {shown!r} has {len(data)} bytes"
                ) from error
            raise

    def replace_metadata(self, descriptor: int, metadata: Metadata) -> None:
        """Make ``metadata`` the whole metadata of a file; after a failure it has the old. Of our own file also against its mode."""
        try:
            self._replace_metadata(descriptor, metadata)
        except PermissionError:
            with against_mode(descriptor):
                self._replace_metadata(descriptor, metadata)

    def _replace_metadata(self, descriptor: int, metadata: Metadata) -> None:
        place = _through(descriptor)
        if metadata and stat_module.S_IFMT(os.fstat(descriptor).st_mode) not in {stat_module.S_IFREG, stat_module.S_IFDIR}:
            raise Unsupported(f"{self._store_name} holds no metadata on symlinks and special files")
        if stat_module.S_ISLNK(os.fstat(descriptor).st_mode):
            return
        old = {name.encode("utf-8", "surrogateescape"): data for name, data in self._all_through(place).items()}
        try:
            self._make(place, old, self._encoded(metadata))
        except BaseException:
            now = {name.encode("utf-8", "surrogateescape"): data for name, data in self._all_through(place).items()}
            self._make(place, now, old)
            raise

    def _all_through(self, place: str) -> dict[str, bytes]:
        found = {}
        for raw in os.listxattr(place):
            if decode(raw).startswith(_USER):
                found[decode(raw)] = os.getxattr(place, raw)
        return found

    def _make(self, place: str, old: dict[bytes, bytes], new: dict[bytes, bytes]) -> None:
        """Removing comes first: the room for attributes is small."""
        for name in old.keys() - new.keys():
            os.removexattr(place, name)
        for name, data in new.items():
            if old.get(name) != data:
                self._set(place, name, data)

    def change(self, descriptor: int, directory: int, name: bytes, changes: dict[str, int]) -> None:
        """Change owner, mode and times of what an ``O_PATH`` descriptor is on; it is ``name`` in ``directory``."""
        symlink = stat_module.S_ISLNK(os.fstat(descriptor).st_mode)
        if "uid" in changes or "gid" in changes:
            owner = (changes.get("uid", -1), changes.get("gid", -1))
            if symlink:
                os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
            else:
                os.chown(_through(descriptor), *owner)
        if "mode" in changes and not symlink:
            os.chmod(_through(descriptor), stat_module.S_IMODE(changes["mode"]))
        if "atime" in changes or "mtime" in changes:
            native = os.fstat(descriptor)
            times = (changes.get("atime", native.st_atime_ns), changes.get("mtime", native.st_mtime_ns))
            if symlink:
                os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
            else:
                os.utime(_through(descriptor), ns=times)

    def drop_foreign_but(self, descriptor: int, kept: Mapping[str, bytes]) -> None:
        """Remove the attributes outside ``user.`` that are not among these, but for those that the host does not let go of."""
        for name in os.listxattr(descriptor):
            if not name.startswith(_USER) and decode(name) not in kept:
                with contextlib.suppress(OSError):
                    os.removexattr(descriptor, name)

    def set_foreign(self, directory: int, file_name: bytes, name: str, value: bytes | None) -> None:
        """Set or remove (None) one attribute outside ``user.``."""
        place = inside(directory, file_name)
        try:
            if value is None:
                os.removexattr(place, name, follow_symlinks=False)
            else:
                os.setxattr(place, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.ENODATA:
                raise NoSuchAttribute(name) from error
            if error.errno == errno.ENOTSUP:
                raise Unsupported(f"{self._store_name} cannot hold {name}") from error
            raise


def _typed_names(data: bytes) -> Any:
    """The names of attributes that are JSON; what others may have written in that place names none."""
    if not data:
        return ()
    try:
        names = _parse(data.decode())
    except (ValueError, RecursionError):
        return ()
    return names if isinstance(names, list) else ()


def _json_or_text(data: bytes) -> Any:
    text = data.decode("utf-8", "surrogateescape")
    try:
        return _parse(text)
    except (ValueError, RecursionError):
        return text
