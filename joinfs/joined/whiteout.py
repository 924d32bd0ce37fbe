"""How a layer says that something below it is hidden.

Written, and read in every layer, is the spelling of OCI image layers:

- ``dir/.wh.NAME``, an empty value, hides NAME of the layers below. Something of that name in the same
  layer is not hidden; if it is a directory, the whiteout makes it opaque.
- ``dir/.wh..wh..opq`` makes ``dir`` opaque: what the layers below have in it is hidden.
- Other names that begin with ``.wh..wh.`` are bookkeeping, of AUFS or of a store, and are no one's.

Some marks are joinfs's own and stand in metadata, of a directory:

- ``joinfs.redirect``: below this layer the directory goes on under that key. It outranks a whiteout of
  the directory's name. (A renamed merged directory.)
  Before there is one in a layer, its root gets ``joinfs.redirects``.
- ``joinfs.whiteouts``: a list of hidden names that are too long to have ``.wh.`` put before them.
- ``joinfs.impure``: things in it may have ``joinfs.origin``: the number that a file or directory had
  in the layer that it was copied up from, which it keeps (so inode numbers stay); of a file, then its size,
  modification time, mode, owner and group there as well, with spaces between. Where symlinks and
  special files can have no metadata they have ``trusted.joinfs.origin``, if who writes may set it.
- ``joinfs.replaced``, of a file: the same of the file of the layers below that it was moved over.
- ``joinfs.metacopies``: files in it may have ``joinfs.metacopy`` and no data: a layer below has that. It says how many
  layers there are from that one down, ``/``, and the key there.

Layers may also carry the kernel's overlayfs marks, which are read, and written instead of these if that is wanted: a character device
0/0 is a whiteout; ``{user,trusted}.overlay.opaque`` is ``y`` on an opaque directory, or ``x`` on one
whose empty files with ``{user,trusted}.overlay.whiteout`` are whiteouts; ``redirect`` is where the layers below
have a directory, ``/`` and a path, or a name in the same directory; ``metacopy`` is on a file without its data,
which the layers below have, under its name or where ``redirect`` says.

See Also:
    OCI image-spec, layer.md, Whiteouts; Documentation/filesystems/overlayfs.rst.
"""

import contextlib
import re
import stat as stat_module
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from joinfs.errors import InvalidKey, KeyExists, Unsupported
from joinfs.stores import Stat, Store
from joinfs.stores.keys import MAX_NAME, check_key, is_encodable
from joinfs.stores.metadata import RESERVED
from joinfs.stores.value import Metadata, new_stat

PREFIX = ".wh."
BOOKKEEPING = ".wh..wh."
OPAQUE = ".wh..wh..opq"
REDIRECT = RESERVED + "redirect"
REDIRECTS = RESERVED + "redirects"
LONG_WHITEOUTS = RESERVED + "whiteouts"
IMPURE = RESERVED + "impure"
ORIGIN = RESERVED + "origin"
REPLACED = RESERVED + "replaced"
METACOPIES = RESERVED + "metacopies"
METACOPY = RESERVED + "metacopy"
OVERLAY = "overlay."
TRUSTED_OVERLAY = "trusted.overlay."
TRUSTED_MARKS = "trusted." + RESERVED
# No number that an origin can have is longer. Times before the epoch are negative.
_ORIGIN = re.compile(r"[0-9]{1,60}( [0-9]{1,60} -?[0-9]{1,60}( [0-9]{1,60} [0-9]{1,60} [0-9]{1,60})?)?")
WHITEOUT_MODE = stat_module.S_IFREG | 0o600


class Marks(NamedTuple):
    """What a layer's directory says about the layers below it.

    Attributes:
        opaque: They are hidden in it.
        redirect: They have it under this key instead.
        long_whiteouts: Names hidden in them, too long for a whiteout of their own.
        empty_files: Empty files in it may be overlayfs whiteouts.
        redirects: Of a root: directories of the layer may have redirects.
        renamed: They have it under this name instead, in the same directory.
        metacopies: Files in it may be without their data.
        overlaid: Overlayfs has written it; of a root: the layer.
        impure: What is in it may have the number of something that it was copied up from.
    """

    opaque: bool = False
    redirect: str | None = None
    long_whiteouts: frozenset[str] = frozenset()
    empty_files: bool = False
    redirects: bool = False
    renamed: str | None = None
    metacopies: bool = False
    impure: bool = False
    overlaid: bool = False


NO_MARKS = Marks()


def is_reserved(name: str) -> bool:
    """Whether a name is for marks, so that nothing can be called that in a join."""
    return name.startswith(PREFIX)


def check_not_reserved(key: str) -> None:
    """Raise ``InvalidKey`` if a component of ``key`` is a name for marks."""
    if PREFIX in key and any(is_reserved(name) for name in key.split("/")):
        raise InvalidKey(f"{key!r}: names that begin with {PREFIX!r} are reserved for whiteouts; use another name")


def hidden_name(name: str) -> str | None:
    """The name that an entry called ``name`` hides, if it is a whiteout."""
    if not name.startswith(PREFIX) or name.startswith(BOOKKEEPING):
        return None
    return name.removeprefix(PREFIX)


def fits(name: str) -> bool:
    """Whether the whiteout of ``name`` is not too long to be a name itself."""
    return is_encodable(name) and len((PREFIX + name).encode("utf-8", "surrogateescape")) <= MAX_NAME


def is_overlay_whiteout(store: Store, key: str, stat: Stat, marks: Marks) -> bool:
    """Whether the entry at ``key`` is a whiteout in the kernel's spelling."""
    if stat.kind == stat_module.S_IFCHR:
        return stat.rdev == 0
    if not (marks.empty_files and stat.is_file and stat.size == 0):
        return False
    return OVERLAY + "whiteout" in store.get_metadata(key) or TRUSTED_OVERLAY + "whiteout" in store.get_xattrs(key)


def read_marks(store: Store, directory: str) -> Marks:
    """Answer the marks of a layer's directory.

    Raises:
        KeyError: The layer has no such directory.
    """
    metadata = store.get_metadata(directory)
    overlay = _overlay_marks(store, directory, metadata)
    long_whiteouts = metadata.get(LONG_WHITEOUTS, ())
    if not metadata and not overlay and not store.exists(directory + OPAQUE):
        return NO_MARKS
    opaque = overlay.get("opaque", "")
    redirect, renamed = _redirect(metadata), None
    if REDIRECT not in metadata:
        key, renamed = overlay_redirect(overlay)
        redirect = None if key is None else key + "/"
    return Marks(
        opaque == "y" or store.exists(directory + OPAQUE),
        redirect,
        frozenset(name for name in long_whiteouts if isinstance(name, str)),
        opaque == "x",
        bool(metadata.get(REDIRECTS)) or bool(overlay),
        renamed,
        bool(overlay) or bool(metadata.get(METACOPIES)),
        bool(metadata.get(IMPURE)),
        bool(overlay),
    )


def white_out(store: Store, directory: str, name: str) -> None:
    """Hide ``name`` of the layers below; nothing changes if it is hidden already."""
    if fits(name):
        with contextlib.suppress(KeyExists):
            store.make(directory + PREFIX + name, new_stat(WHITEOUT_MODE, *store._default_owner()))
        return
    _set_long_whiteouts(store, directory, _long_whiteouts(store, directory) | {name})


def remove_whiteout(store: Store, directory: str, name: str) -> None:
    """Take back what ``white_out`` did.

    Raises:
        KeyError: ``name`` is not whited out.
    """
    if fits(name):
        store.delete(directory + PREFIX + name)
    else:
        _set_long_whiteouts(store, directory, _long_whiteouts(store, directory) - {name})


def is_whited_out(store: Store, directory: str, name: str) -> bool:
    """Whether the layer has a whiteout of ``name`` of its own, in the spelling that is written."""
    if fits(name):
        return store.exists(directory + PREFIX + name)
    return name in _long_whiteouts(store, directory)


def make_opaque(store: Store, directory: str) -> None:
    """Hide what the layers below have in ``directory``."""
    store.put(directory + OPAQUE, new_stat(WHITEOUT_MODE))


def unmarked(metadata: Metadata) -> Metadata:
    """The metadata that is the user's: without joinfs's names and overlayfs's."""
    if not metadata:
        return metadata
    return {name: value for name, value in metadata.items() if not name.startswith((RESERVED, OVERLAY))}


def keep_origin(store: Store, key: str, number: int) -> None:
    """Mark something that can have no metadata with the number that it had where it was copied up from, if that can be."""
    with contextlib.suppress(PermissionError, Unsupported):
        store.set_xattr(key, TRUSTED_MARKS + ORIGIN.removeprefix(RESERVED), b"%d" % number)


def marks_of_one(store: Store, key: str, stat: Stat, names: Sequence[str]) -> Metadata:
    """Answer some marks of something in an impure directory, as metadata.

    Raises:
        KeyError: It is not there.
    """
    if stat.is_special and not store.capabilities.metadata_on_all:
        xattrs = store.get_xattrs(key) if store.capabilities.xattrs else {}
        return {name.removeprefix("trusted."): value.decode("ascii", "replace") for name, value in xattrs.items() if name.startswith(TRUSTED_MARKS)}
    return store.get_metadata(key, names)


def origin_of(stat: Stat) -> str:
    """How ``joinfs.origin`` says which file something is a copy of, and as of when."""
    return f"{stat.file_id} {stat.size} {stat.mtime} {stat.mode} {stat.uid} {stat.gid}" if stat.is_file else f"{stat.file_id}"


def origin_in(metadata: Metadata) -> int | None:
    """Answer the number that something had where it was copied up from, whose metadata this is; None if it was not."""
    numbers = _numbers_in(metadata)
    return numbers[0] if numbers else None


def version_in(metadata: Metadata, mark: str = ORIGIN) -> tuple[int, ...] | None:
    """Answer the number, size, modification time, and perhaps mode and owners, of what something is a copy of, or replaced; None for not knowing."""
    numbers = _numbers_in(metadata, mark)
    return tuple(numbers) if len(numbers) > 1 else None


def _numbers_in(metadata: Metadata, mark: str = ORIGIN) -> list[int]:
    """The numbers of such a mark; none if it is not one."""
    origin = metadata.get(mark)
    if not isinstance(origin, str) or _ORIGIN.fullmatch(origin) is None:
        return []
    return [int(number) for number in origin.split(" ")]


def marked(metadata: Metadata) -> Metadata:
    """The rest of it."""
    return {name: value for name, value in metadata.items() if name.startswith((RESERVED, OVERLAY))}


def unmarked_xattrs(xattrs: dict[str, bytes]) -> dict[str, bytes]:
    """The extended attributes without joinfs's marks and overlayfs's."""
    return {name: value for name, value in xattrs.items() if not name.startswith((TRUSTED_OVERLAY, TRUSTED_MARKS))}


def marked_xattrs(xattrs: dict[str, bytes]) -> dict[str, bytes]:
    """The rest of them."""
    return {name: value for name, value in xattrs.items() if name.startswith((TRUSTED_OVERLAY, TRUSTED_MARKS))}


def metacopy(store: Store, key: str) -> tuple[str | None, dict[str, str] | None]:
    """Answer where the data of a file is according to joinfs's mark, and overlayfs's marks if they say that it has none; else None."""
    metadata = store.get_metadata(key)
    place = metadata.get(METACOPY)
    marks = _overlay_marks(store, key, metadata)
    return place if isinstance(place, str) else None, marks if "metacopy" in marks else None


def overlay_redirect(marks: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Where the layers below have what has these marks: the key, without a ``/`` at its end, or the name in the same directory."""
    redirect = marks.get("redirect", "")
    try:
        check_key(redirect.removeprefix("/"))
    except InvalidKey:
        return None, None
    if redirect.startswith("/"):
        return redirect[1:], None
    return (None, redirect) if redirect and "/" not in redirect else (None, None)


def _overlay_marks(store: Store, key: str, metadata: Metadata) -> dict[str, str]:
    """The marks of overlayfs that a key has, by their names."""
    marks = {name.removeprefix(OVERLAY): str(value) for name, value in metadata.items() if name.startswith(OVERLAY)}
    if store.capabilities.xattrs:
        for name, data in store.get_xattrs(key).items():
            if name.startswith(TRUSTED_OVERLAY):
                marks[name.removeprefix(TRUSTED_OVERLAY)] = data.decode("utf-8", "surrogateescape")
    return marks


def _redirect(metadata: Metadata) -> str | None:
    """The redirect, unless it is nothing that a directory can be called: then there is nothing below."""
    redirect = metadata.get(REDIRECT)
    if not isinstance(redirect, str) or not redirect.endswith("/"):
        return None
    try:
        check_key(redirect)
    except InvalidKey:
        return None
    return redirect


def _long_whiteouts(store: Store, directory: str) -> frozenset[str]:
    return read_marks(store, directory).long_whiteouts


def _set_long_whiteouts(store: Store, directory: str, names: frozenset[str]) -> None:
    metadata = store.get_metadata(directory)
    metadata.pop(LONG_WHITEOUTS, None)
    store.set_metadata(directory, {**metadata, **({LONG_WHITEOUTS: sorted(names)} if names else {})})
