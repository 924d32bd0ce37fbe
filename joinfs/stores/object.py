"""A bucket of S3, or of a server that speaks as S3 does, as a store."""

import contextlib
import io
import stat as stat_module
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from joinfs.errors import (
    DirectoryNotEmpty,
    InvalidKey,
    IsADirectory,
    KeyExists,
    NoSuchAttribute,
    NotADirectory,
    StoreUnavailable,
    Unsupported,
)
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE
from joinfs.stores.keys import ROOT, ancestors, is_directory_key, split
from joinfs.stores.metadata import copied
from joinfs.stores.object_attributes import Attributes, headers_of
from joinfs.stores.object_bucket import Changed, Found, Listed
from joinfs.stores.object_listing import HADOOP
from joinfs.stores.object_names import is_beside
from joinfs.stores.object_reading import ReadingObjects, There, is_directory
from joinfs.stores.spooling import at_hand
from joinfs.stores.value import Capabilities, Metadata, Stat, new_stat, now, remaining

# How often a change of attributes is tried again because others were first.
RETRIES = 8


class ObjectStore(ReadingObjects):
    """The objects of a bucket whose names begin with a prefix.

    ``a/b`` is the key ``a/b``, ``a/`` the marker of a directory; for other spellings of markers see
    :mod:`joinfs.stores.object_listing`, for names that no file can have :mod:`joinfs.stores.object_names`, for what
    mode, owner, times and metadata are called :mod:`joinfs.stores.object_attributes`. What there is no
    room for in 2 KB of metadata raises ``OutOfSpace``.

    What the bucket says of an object is believed for ``freshness`` seconds; others' changes are seen then. A value is written
    whole, in parts if it is large, and seen when the last is there. Attributes and metadata are
    changed, and values renamed, by the server, which copies the object; a directory is renamed by copying all that is in it,
    and then deleting it. Where the server honours conditions, what was known of one version is never written to another that
    others put there meanwhile, and of two who ``make`` one value one is told ``KeyExists``. Of two who change but the
    attributes of one version at once the last wins: it is the same version to the server.

    A stream of a value of at most 8 MiB goes on answering it as it was; a larger one fails once it was replaced.

    Args:
        url: ``//BUCKET/PREFIX``, what follows ``s3:`` in a store's URL.
        event_manager, read_only: As for ``Store`` and ``open_store``.
        endpoint: URL of the server; empty for what ``AWS_ENDPOINT_URL`` or a profile says, or Amazon's.
        freshness: The attribute, as text, if it is to be another.

    Attributes:
        freshness: Seconds for which an answer is believed.
        timeout: Seconds for which the server may send nothing, before a request is given up or made again.
        tries: How often a request that fails is made.
        conditions: Which conditions the server honours, as was found out when the store was connected for writing.

    Raises:
        UsageError: The URL or the endpoint is none.
    """

    capabilities = Capabilities(xattrs=True, slow=True)

    # ---------------------------------------------------------------- values and markers

    def _receive(
        self, key: str, stat: Stat, data: BinaryIO | None, buffer_size: int
    ) -> contextlib.AbstractContextManager[BinaryIO | None]:
        return at_hand(data, buffer_size)

    def _put(
        self,
        key: str,
        stat: Stat,
        data: BinaryIO | None,
        metadata: Metadata,
        xattrs: dict[str, bytes],
        buffer_size: int,
    ) -> Stat:
        there = self._place(key)
        sent = self._sent.stat
        birth = sent.birth if sent is not None else now() if there.found is None else self._attributes(key, there).stat.birth
        attributes = Attributes(stat._replace(birth=birth), copied(metadata), xattrs)
        name = self._name(key)
        if not is_directory_key(key) or there.found is not None or self._known.has_below(name):
            return self._put_at(key, there, attributes, data)
        since = self._known.asked(name)
        put = self._put_at(key, there, attributes)
        self._known.made(name, since)
        return put

    def _around_write(self, *keys: str) -> contextlib.AbstractContextManager[object]:
        """The same; of what is sent any number at a time, as several machines do it."""
        return contextlib.nullcontext() if self._sent.active else super()._around_write(*keys)

    def put_sent(self, key: str, stat: Stat, data: BinaryIO | None, metadata: Mapping[str, Any], xattrs: Mapping[str, bytes]) -> Stat:
        with self._sending(stat):
            return self.put(key, stat, data, metadata, xattrs)

    def delete_sent(self, keys: Sequence[str]) -> None:
        """The same, with one request for many files."""
        if any(is_directory_key(key) for key in keys):
            with self._sending():
                super().delete_sent(keys)
            return
        for key in keys:
            self._check_writable(key)
        with self._sending(), self._changing(*keys):
            self._keep_directories(keys)
            self._remove({self._name(key) for key in keys})
            for key in keys:
                self._touch_above(key)
        for key in keys:
            self._tell_deleted(key, {})

    @contextlib.contextmanager
    def _sending(self, stat: Stat | None = None) -> Iterator[None]:
        self._sent.active, self._sent.stat = True, stat
        try:
            yield
        finally:
            self._sent.active, self._sent.stat = False, None

    def _put_at(self, key: str, there: There, attributes: Attributes, data: BinaryIO | None = None, etag: str | None = None) -> Stat:
        """Write an object whole; ``etag`` as for ``Bucket.put``."""
        sent = self._sent.stat
        ctime = now() if sent is None else sent.ctime
        stat = attributes.stat._replace(size=0, ctime=ctime, nlink=1, file_id=None, implied=False, breaks=False, steady=False)
        headers = headers_of(attributes._replace(stat=stat))
        name, content = self._name(key), io.BytesIO() if data is None else data
        try:
            if name.endswith("/"):
                written = self._markers.put(name, headers)
            else:
                written = self._bucket.put(name, content, headers, {}, max(remaining(content), 0), etag)
        except BaseException:  # it may have been written all the same
            self._known.forget(name)
            raise
        self._known.wrote(name, written)
        if there.found is None:
            self._touch_above(key)
        self._touched.pop(key, None)
        return stat._replace(size=written.size)

    def _place(self, key: str) -> There:
        """Where something may be put, the directories on the way being there; what is there already is of the kind of the key."""
        with contextlib.suppress(KeyError):
            return self._respelled(key, self._find(key))
        name = self._name_for_new(key)
        self._make_directories(key)
        if is_directory_key(key):
            if self.exists(key.removesuffix("/")):
                raise NotADirectory(f"{key!r} is not a directory")
        elif self._is_above_something(key) or self._otherwise_marked(key):
            raise IsADirectory(f"{key!r} is a directory")
        return There(name, None)

    def _respelled(self, key: str, there: There) -> There:
        """The same of a directory whose marker is spelled in another way, after it was given one that is spelled as ours."""
        if there.found is None or there.name == self._name(key):
            return there
        self._put_at(key, there, self._attributes(key, there))
        self._remove({there.name})
        return self._find(key)

    def _name_for_new(self, key: str) -> str:
        """The name for what is new: not one that stands for something else then."""
        name = self._name(key)
        if is_beside(key.removesuffix("/")):
            raise InvalidKey(f"{key!r}: what begins with '%%' is for names that no file can have")
        if name.endswith(HADOOP):
            raise Unsupported(f"{key!r}: an object whose name ends in {HADOOP!r} marks a directory")
        return name

    def _make_directories(self, key: str) -> None:
        for directory in ancestors(key):
            try:
                self._respelled(directory, self._find(directory))
            except KeyError:
                if self.exists(directory.removesuffix("/")):
                    raise NotADirectory(f"{directory!r} is not a directory") from None
                self._mark(directory, new_stat(DEFAULT_DIRECTORY_MODE, *self._default_owner()))

    def _mark(self, key: str, stat: Stat) -> None:
        """Make the marker of a directory that has none."""
        self._put_at(key, There(self._name(key), None), Attributes(stat, {}, {}))

    def _touch_above(self, key: str) -> None:
        if key != ROOT:
            self._touched[split(key)[0]] = now()

    def _make_new(self, key: str, stat: Stat, target: bytes) -> Stat:
        """The same; where the server honours it, under the condition that nothing is there."""
        self._check_free(key)
        name = self._name_for_new(key)
        made, since = new_stat(stat.mode, stat.uid, stat.gid, stat.rdev), self._known.asked(name)
        try:
            put = self._put_at(key, There(name, None), Attributes(made, {}, {}), io.BytesIO(target), "" if self.conditions.create else None)
        except Changed:
            put = self._made_before(key, name, made)
        if is_directory_key(key):
            self._known.made(name, since)
        return put

    def _made_before(self, key: str, name: str, made: Stat) -> Stat:
        """Attributes of what was made though the answer to that was lost, so that the next try found it there."""
        try:
            there = self._attributes(key, There(name, self._bucket.head(name))).stat
        except KeyError:
            raise KeyExists(f"{key!r} was there already, and others have deleted it by now") from None
        if (there.mode, there.uid, there.gid, there.mtime, there.birth) != (made.mode, made.uid, made.gid, made.mtime, made.birth):
            raise KeyExists(f"{key!r} is there already: others made it just now")
        return there

    # ---------------------------------------------------------------- attributes

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        def change(old: Attributes) -> Attributes:
            new = dict(changes)
            if "mode" in new:
                new["mode"] = old.stat.kind | stat_module.S_IMODE(new["mode"])
            return old._replace(stat=old.stat.changed(new))

        return self._change(key, change).stat

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        self._change(key, lambda old: old._replace(metadata=copied(metadata)))

    def _update_metadata(self, key: str, metadata: Metadata) -> Metadata:
        return self._change(key, lambda old: old._replace(metadata={**old.metadata, **copied(metadata)})).metadata

    def _set_xattr(self, key: str, name: str, value: bytes | None) -> None:
        is_first = True

        def change(old: Attributes) -> Attributes:
            nonlocal is_first
            if value is None and name not in old.xattrs and is_first:  # else it may be gone because of our first try
                raise NoSuchAttribute(name)
            is_first = False
            kept = {other: old.xattrs[other] for other in old.xattrs if other != name}
            return old._replace(xattrs=kept if value is None else {**kept, name: value})

        self._change(key, change)

    def _change(self, key: str, change: Callable[[Attributes], Attributes]) -> Attributes:
        """Give what stands at a key other attributes; again, if others put another version there meanwhile."""
        for _ in range(RETRIES):
            there = self._respelled(key, self._find(key))
            new = change(self._attributes(key, there))
            try:
                return new._replace(stat=self._write_attributes(key, there, new))
            except Changed:
                continue
        raise StoreUnavailable(f"{key!r} is changed by others all the time")

    def _write_attributes(self, key: str, there: There, new: Attributes) -> Stat:
        name = self._name(key)
        # A marker is not copied, which SeaweedFS refuses; and a directory may have none.
        if there.found is None or is_marker(there.found, name):
            return self._put_at(key, There(name, there.found), new)
        stat = new.stat._replace(ctime=now(), implied=False)
        self._copy_object(key, name, name, there.found, headers_of(new._replace(stat=stat)))
        self._touched.pop(key, None)
        return stat

    def _copy_object(self, key: str, old: str, new: str, found: Found, headers: dict[str, str] | None = None) -> None:
        """As ``Bucket.copy``, of what stands at a key, which is missing if the object is."""
        try:
            written = self._bucket.copy(old, new, found, headers)
        except BaseException as error:
            self._known.forget(old, new)
            if isinstance(error, KeyError):
                raise KeyError(key) from None
            raise
        self._known.wrote(new, written)

    # ---------------------------------------------------------------- deleting and moving

    def _delete(self, key: str) -> None:
        if key == ROOT:
            raise InvalidKey("the root cannot be deleted")
        there = self._find(key)
        if is_directory_key(key) and any(True for _ in self.list(key)):
            raise DirectoryNotEmpty(f"{key!r} has entries")
        self._keep_directory(key)
        self._remove({there.name, *self._markers_of(key)})
        self._touched.pop(key, None)
        self._touch_above(key)

    def _markers_of(self, key: str) -> set[str]:
        """The names of all objects that mark a directory, of which some may not be there."""
        if not is_directory_key(key):
            return set()
        name = self._name(key)
        bare = name.removesuffix("/")
        found = self._known.find(bare)
        if found is None:
            return {name, bare + HADOOP}
        return {name, bare} if is_directory(found) else {name}

    def _remove(self, names: set[str]) -> None:
        """Delete objects; what is in a directory goes before its marker, which some servers would keep else."""
        try:
            self._bucket.delete(sorted(names, reverse=True))
        finally:
            self._known.forget(*names)

    def _keep_directory(self, key: str) -> None:
        """Mark the directory of a key that is about to go, if it would be gone with it."""
        above = split(key)[0]
        if self._is_unmarked(above) and len(self._bucket.first(self._name(above), 2)) < 2:
            self._mark(above, self.stat(above))

    def _keep_directories(self, keys: Iterable[str]) -> None:
        """Mark the directories of keys that are about to go, while others may be doing something there."""
        for above in {split(key)[0] for key in keys}:
            with self._exclusive(above):
                if self._is_unmarked(above):
                    self._mark(above, self.stat(above))

    def _is_unmarked(self, directory: str) -> bool:
        """Whether a directory is there only because of what is in it."""
        if directory == ROOT:
            return False
        with contextlib.suppress(KeyError, InvalidKey):  # others have deleted it; no marker could be called so
            there, name = self._find(directory), self._name(directory)
            return there.found is None and there.name == name
        return False

    def _rename(self, old: str, new: str) -> None:
        source = self._find(old)
        if old == new:
            return
        if is_directory_key(new) and self.exists(new) and any(True for _ in self.list(new)):
            raise DirectoryNotEmpty(f"{new!r} has entries")
        self._place(new)
        if is_directory_key(new):
            self._rename_directory(old, new)
        else:
            self._rename_value(old, new, source)
        self._touch_above(new)
        self._touch_above(old)

    def _rename_value(self, old: str, new: str, source: There) -> None:
        for _ in range(RETRIES):
            assert source.found is not None
            with contextlib.suppress(Changed):
                self._copy_object(old, source.name, self._name(new), source.found)
                break
            source = self._find(old)
        else:
            raise StoreUnavailable(f"{old!r} is changed by others all the time")
        self._keep_directory(old)
        self._remove({source.name})

    def _rename_directory(self, old: str, new: str) -> None:
        there = self._respelled(old, self._find(old))
        stat, markers = self._attributes(old, there).stat, self._markers_of(old)
        copies: dict[str, str] = {}
        try:
            self._copy_below(old, new, copies)
            if there.found is None:
                self._mark(new, stat)
        except BaseException:
            self._remove(set(copies.values()))
            raise
        self._keep_directory(old)
        self._remove({*copies, *markers})
        for known in [known for known in list(self._touched) if known.startswith(old)]:
            del self._touched[known]

    def _copy_below(self, old: str, new: str, copies: dict[str, str]) -> None:
        """Copy what is in a directory, and its marker; which objects to which is put into ``copies`` before.

        Markers come last, and each after those of what is in it: there are servers that make a directory by themselves when something is put
        into it, and if its marker comes just then what that says is lost.
        """
        before, after = self._name(old), self._name(new)
        markers: dict[int, list[Listed]] = {}
        for page in self._bucket.pages(before):
            copies |= {listed.name: after + listed.name.removeprefix(before) for listed in page}
            for listed in page:
                if listed.name.endswith("/"):
                    markers.setdefault(listed.name.count("/"), []).append(listed)
            self._copy_all([listed for listed in page if not listed.name.endswith("/")], copies)
        for depth in sorted(markers, reverse=True):
            self._copy_all(markers[depth], copies)

    def _copy_all(self, some: Sequence[Listed], names: dict[str, str]) -> None:
        """Copy objects, many at a time; all that were begun have ended when one fails."""
        copying = [self._meanwhile(self._copy_as_it_is, listed, names[listed.name]) for listed in some]
        errors = [error for error in (future.exception() for future in copying) if error is not None]
        self._known.forget(*(names[listed.name] for listed in some))
        for error in errors:
            raise error

    def _copy_as_it_is(self, listed: Listed, new: str) -> None:
        old, found = listed.name, listed.found
        for _ in range(RETRIES):
            with contextlib.suppress(Changed):
                found = found or self._bucket.head(old)
                if is_marker(found, old):  # as in _write_attributes
                    self._bucket.put(new, io.BytesIO(), found.headers, found.system)
                else:
                    self._bucket.copy(old, new, found)
                return
            found = None
        raise StoreUnavailable(f"{old!r} is changed by others all the time")


def is_marker(found: Found, name: str) -> bool:
    """Whether an object is but the marker of a directory; others may have put data there too."""
    return name.endswith("/") and found.size == 0
