"""POSIX access control lists: what a file system makes of them.

The kernel decides by them who may do what, since a mount of ours has FUSE_POSIX_ACL. It leaves to the file system
what is here: what new files inherit, and that an access ACL and the permission bits say the same.

An ACL is the value of an extended attribute, ``ACCESS`` or, of a directory only, ``DEFAULT``. Little-endian, it is

    u32 version, 2
    for each entry: u16 tag, u16 permissions (4 read, 2 write, 1 execute), u32 uid or gid of USER and GROUP

The permission bits of the group are those of the mask where there is one: the most that the group and anybody who
is named can have. An ACL without entries, or without even the header, stands for none.

See Also:
    acl(5); linux/posix_acl_xattr.h; fs/posix_acl.c and fs/fuse/acl.c in Linux.
"""

import struct
from collections.abc import Container
from typing import NamedTuple

from joinfs.errors import InvalidArgument

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = TAGS = (0x01, 0x02, 0x04, 0x08, 0x10, 0x20)
NAMED = (USER, GROUP)
NEEDED = (USER_OBJ, GROUP_OBJ, OTHER)
UNDEFINED_ID = 0xFFFFFFFF
VERSION = 2
PERMISSIONS = 0o7

_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")


class Entry(NamedTuple):
    """What one user, group or class may do; ``id`` says who where the tag is one of ``NAMED``."""

    tag: int
    permissions: int
    id: int


def inherited(default: bytes, mode: int, is_directory: bool) -> tuple[int, dict[str, bytes]]:
    """Answer the mode and the ACLs of something that is made in a directory with a default ACL.

    Not for symlinks: they have no ACL and inherit none.

    Args:
        default: The directory's default ACL; it has entries.
        mode: As the caller gave it. The default ACL stands in for the umask.

    Raises:
        InvalidArgument: As for ``mode_of``.

    See Also:
        posix_acl_create in Linux; acl(5), Object creation and default ACLs.
    """
    most, is_mode = mode_of(default, mode)
    granted = mode & most
    attributes = {} if is_mode else {ACCESS: with_mode(default, granted)}
    if is_directory:
        attributes[DEFAULT] = default
    return granted, attributes


def with_mode(access: bytes, mode: int) -> bytes:
    """Answer an access ACL as it is after chmod(2) to ``mode``.

    Raises:
        InvalidArgument: As for ``mode_of``.

    See Also:
        posix_acl_chmod in Linux.
    """
    entries = _entries(access)
    shifts = _shifts({entry.tag for entry in entries})
    changed = (
        entry._replace(permissions=mode >> shifts[entry.tag] & PERMISSIONS) if entry.tag in shifts else entry for entry in entries
    )
    return access[: _HEADER.size] + b"".join(_ENTRY.pack(*entry) for entry in changed)


def mode_of(access: bytes, mode: int) -> tuple[int, bool]:
    """Answer the mode of a file that is given an access ACL, and whether the ACL says no more than that mode.

    It need not be kept then, and an older one goes.

    Args:
        access: What ``check`` takes. None at all leaves the mode as it is.
        mode: As it was; of it stays what are not permission bits of user, group and others.

    Raises:
        InvalidArgument: These bytes are not entries of an ACL.

    See Also:
        posix_acl_update_mode in Linux. That clears the set-group-ID bit too, for a caller who may not set it; the
        kernel says so with FUSE_SETXATTR_ACL_KILL_SGID.
    """
    entries = _entries(access)
    if not entries:
        return mode, True
    tags = {entry.tag for entry in entries}
    shifts = _shifts(tags)
    bits = sum((entry.permissions & PERMISSIONS) << shifts[entry.tag] for entry in entries if entry.tag in shifts)
    return mode & ~0o777 | bits, tags <= set(NEEDED)


def check(value: bytes) -> None:
    """See that an attribute, access or default, is an ACL. One without entries is, and means that it is removed.

    Raises:
        InvalidArgument: It is not, or is not valid.

    See Also:
        posix_acl_from_xattr and posix_acl_valid in Linux.
    """
    entries = _entries(value)
    tags = [entry.tag for entry in entries]
    if not set(tags) <= set(TAGS) or tags != sorted(tags):
        raise InvalidArgument(f"the entries of an ACL have the tags {TAGS} in this order, not {tags}")
    if any(entry.permissions > PERMISSIONS for entry in entries):
        raise InvalidArgument("an entry of an ACL has other permissions than to read, write and execute")
    if any(entry.tag in NAMED and entry.id == UNDEFINED_ID for entry in entries):
        raise InvalidArgument("an entry of an ACL is for a user or group, but does not say which")
    if entries and any(tags.count(tag) != 1 for tag in NEEDED):
        raise InvalidArgument("an ACL has one entry each for the owner, the group and others")
    if tags.count(MASK) > 1 or (MASK not in tags and any(tag in NAMED for tag in tags)):
        raise InvalidArgument("an ACL that names users or groups has one mask, any other at most one")


def _entries(value: bytes) -> list[Entry]:
    if not value:
        return []
    if len(value) % _ENTRY.size != _HEADER.size or _HEADER.unpack_from(value) != (VERSION,):
        raise InvalidArgument(f"{len(value)} bytes are not an ACL of version {VERSION}")
    return [Entry(*fields) for fields in _ENTRY.iter_unpack(value[_HEADER.size :])]


def _shifts(tags: Container[int]) -> dict[int, int]:
    """Where in the mode the permissions are, of the entries that are in it."""
    return {USER_OBJ: 6, MASK if MASK in tags else GROUP_OBJ: 3, OTHER: 0}
