"""JoinedStore: several stores as one.

Reading is here; what a directory is made of is ``merge``, how things are hidden ``whiteout``,
writing, all of it into the first store, ``writing``, and telling of changes ``watching``.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from joinfs.errors import JoinfsError, NotPermitted, ReadOnly, Unsupported, UsageError
from joinfs.joined.found import Found
from joinfs.joined.marking import ImageMarking, OverlayMarking
from joinfs.joined.merge import Merge
from joinfs.joined.places import check_places
from joinfs.joined.steps import Marking
from joinfs.joined.unfinished import finish_commit
from joinfs.joined.watching import Watching
from joinfs.joined.whiteout import OVERLAY, PREFIX, unmarked, unmarked_xattrs
from joinfs.joined.writing import ANNEX
from joinfs.stores import Capabilities, Stat, Store, Usage, Value
from joinfs.stores.adapt import as_store
from joinfs.stores.checking import reason, walk_told
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.keys import ROOT, check_key, is_directory_key, split
from joinfs.stores.metadata import RESERVED, has_all, selected
from joinfs.stores.value import Versioned

DIRECTORY_TTL = 1.0
_UNKNOWN = Stat(0)
T = TypeVar("T")


class JoinedStore(Watching):
    """The union of several stores.

    Its keys are those of all of them; where several have a key, the first of them has priority. All
    writes go to the first store: what is changed there is copied up from the store that has it, what is
    deleted is hidden by a whiteout, and the other stores are never changed. Who holds a transaction of the
    first store itself must not write through the join in it.

    Args:
        stores: The stores, the first with priority; joined stores among them if you like. Mappings and
            encore's stores are taken as ``MappingStore`` and ``EncoreStore``.
        event_manager: Where events go; a new ``EventManager`` unless given. A listener of one of the
            joined stores hears what is written to that one.
        directory_ttl: Seconds for which what a directory is made of is believed without asking the
            stores again. Writes through their own methods are seen at once all the same.
        whiteouts: How the first store hides what is below: ``oci``, as layers of container images do, or, of a directory,
            ``overlay``, as the kernel's overlayfs does, which then mounts it as its own upper layer.
        metacopy: Change attributes and metadata of large files without copying up their data. None is "unless the first store
            is a directory", which others may take for a layer that is whole.

    Attributes:
        annex: A store whose keys are seen below ``.joinfs/``, where nothing else is called that; no listing shows it. What is put at a key
            that it ``takes`` goes to its method ``write``.

    Raises:
        UsageError: There is no store, or the same one twice, or something that is none.

    See Also:
        SEMANTICS.md, The join.
    """

    def __init__(
        self,
        stores: Sequence[Any],
        event_manager: Any = None,
        *,
        directory_ttl: float = DIRECTORY_TTL,
        whiteouts: str = "oci",
        metacopy: bool | None = None,
    ) -> None:
        given = tuple(stores)
        if not given:
            raise UsageError("a join needs at least one store")
        if len({id(store) for store in given}) < len(given):
            raise UsageError("the same store is joined twice; give each place in the order a store of its own")
        super().__init__([as_store(store) for store in given], event_manager)
        if metacopy and whiteouts == "overlay":
            raise UsageError("metacopy=True, whiteouts=overlay: overlayfs does not know joinfs's copies without data; leave one of them out")
        self._asked_for = (directory_ttl, whiteouts, metacopy)
        self._known_capabilities: Capabilities | None = None
        self._set_up()

    def _set_up(self) -> None:
        """Make what depends on which stores are joined."""
        ttl, whiteouts, metacopy = self._asked_for
        self._upper = self.layers[0]
        self._marking = self._marking_called(whiteouts)
        self._metacopy = not isinstance(self._upper, DirectoryStore) if metacopy is None else metacopy
        self._merge = Merge(self.layers, ttl, keeps_links=whiteouts == "oci")
        self._known_capabilities = None
        self.name = " + ".join(layer.name for layer in self.layers)

    def replace_layers(self, stores: Sequence[Store]) -> None:
        """Join other stores from now on: with one put before the others, added or taken out.

        The caller sees to it that nobody writes through the join meanwhile; who reads meanwhile sees it as it was, or as it
        is then. Subscribers are told that everything may have changed. Stores that are not joined any more stay connected.

        Args:
            stores: As for ``JoinedStore``, connected.

        Raises:
            UsageError: As for ``JoinedStore``; or a copy in a store above says that its data is where it would not be any more. Nothing
                has changed then.
        """
        new = JoinedStore(stores, directory_ttl=self._asked_for[0], whiteouts=self._asked_for[1], metacopy=self._asked_for[2])
        check_places(self.layers, new.layers)
        with self._writes, self._exchanging_layers(new.layers):
            self._set_up()
        self._tell_changed(None)

    def _marking_called(self, whiteouts: str) -> Marking:
        if whiteouts == "oci":
            return ImageMarking(self, self._upper)
        if whiteouts != "overlay":
            raise UsageError(f"whiteouts={whiteouts}: there are 'oci' and 'overlay'")
        if not isinstance(self._upper, DirectoryStore):
            raise UsageError(f"whiteouts=overlay: the first store, {self._upper.name}, is no directory, which alone overlayfs can mount")
        return OverlayMarking(self, self._upper, trusted=os.geteuid() == 0)

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        """Connect every store, each with ``credentials``. If one fails, none stays connected by this."""
        with contextlib.ExitStack() as opened:
            for layer in self.layers:
                if not layer.is_connected():
                    layer.connect(credentials)
                    opened.callback(layer.disconnect)
            if self._upper.capabilities.writable and self._upper.capabilities.marks:
                finish_commit(self._upper, self.layers[1:])
            opened.pop_all()
        self._known_capabilities = None
        self._merge.forget()

    def disconnect(self) -> None:
        """Disconnect every store, those after one that fails included."""
        self._known_capabilities = None
        self._watched.clear()
        with contextlib.ExitStack() as closing:
            for layer in self.layers:
                closing.callback(layer.disconnect)

    def is_connected(self) -> bool:
        for layer in self.layers:  # no all(): this is asked with every call  # noqa: SIM110
            if not layer.is_connected():
                return False
        return True

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """Those of the first store, which takes the writes; local, thread-safe and slow as all of them together."""
        if self._known_capabilities is not None:
            return self._known_capabilities
        capabilities = self._upper.capabilities._replace(
            local=any(layer.capabilities.local for layer in self.layers),
            thread_safe=all(layer.capabilities.thread_safe for layer in self.layers),
            slow=any(layer.capabilities.slow for layer in self.layers),
            marks=False,
        )
        if self.is_connected():  # they change no more: this is asked with nearly every call
            self._known_capabilities = capabilities
        return capabilities

    @property
    def changes(self) -> int:
        """A number that every write through this object, or through one of its stores, changes."""
        return super().changes + sum(layer.changes for layer in self.layers)

    def _check_writable(self, key: str) -> None:
        if self.is_connected() and not self._upper.capabilities.writable:
            raise ReadOnly(
                f"the join is read-only, because its first store, {self._upper.name}, takes no writes; "
                "put a writable store first"
            )
        self._check_connected()
        check_key(key)
        there = None if self.annex is None else self._key_in_annex(key)
        if there is not None and not self.annex.takes(there):
            raise NotPermitted(f"{key!r} is none of the stores': it cannot be changed")

    # ---------------------------------------------------------------- the annex

    def _elsewhere(self, method: str, key: str, *arguments: Any) -> Any:
        """What the annex answers for a key that is in none of the stores.

        Raises:
            KeyError: It is not in the annex either.
        """
        there = self._key_in_annex(key)
        if there is None or (key == ANNEX and method != "lookup"):
            raise KeyError(key)
        return getattr(self.annex, method)(there, *arguments)

    # ---------------------------------------------------------------- reading

    def _find(self, key: str) -> Found:
        self._check_connected()
        return self._merge.locate(key)

    def stat(self, key: str) -> Stat:
        stat = self._stat_in_stack(key) if is_directory_key(key) else None
        try:
            return self._find(key).stat if stat is None else stat
        except KeyError:
            return self._elsewhere("stat", key)  # type: ignore[no-any-return]

    def _stat_in_stack(self, directory: str) -> Stat | None:
        """The attributes of a directory of which it is known what it is made of, if the topmost layer tells them."""
        merge = self._merge
        parts = merge.stacks.get(directory)
        above = parts if directory == ROOT else merge.stacks.get(split(directory)[0])
        if parts is None or above is None or not self.is_connected():
            return None
        top = parts[0]
        try:
            stat = top.store.stat(top.prefix)
        except KeyError:
            return None
        if stat.implied:
            return None
        part = next((part for part in above if part.layer == top.layer), top)
        return merge.told_by(part, top.prefix, stat, alone=len(parts) == 1)

    def lookup(self, key: str) -> Stat:
        self._check_connected()
        try:
            return self._merge.find(key).stat if key else self.stat(ROOT)
        except KeyError:
            return self._elsewhere("lookup", key)  # type: ignore[no-any-return]

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        self._check_connected()
        if not is_directory_key(prefix):
            raise KeyError(prefix)
        return self._merge.list(prefix) if self._key_in_annex(prefix) is None else self._elsewhere("list", prefix)

    def get(self, key: str) -> Value:
        value = self._from_first(self._upper.get, key)
        if value is None or not value.size:
            try:
                found = self._find(key)
            except KeyError:
                return self._elsewhere("get", key)  # type: ignore[no-any-return]
            value = found.store.get(found.key)
            if found.metacopy is not None:
                store, there = found.metacopy
                metadata = unmarked(store.get_metadata(there))
                value.show(lambda _: dict(metadata))
                return value
        value.show(unmarked)
        return value

    def read(self, key: str, offset: int, size: int) -> bytes:
        data = self._from_first(self._upper.read, key, offset, size)
        if not data:
            try:
                found = self._find(key)
            except KeyError:
                return self._elsewhere("read", key, offset, size)  # type: ignore[no-any-return]
            data = found.store.read(found.key, offset, size)
        return data

    def read_version(self, key: str, offset: int, size: int) -> Versioned:
        """The same, of the store that has it, which tells."""
        self._check_connected()
        try:
            found = self._find(key)
        except KeyError:
            return super().read_version(key, offset, size)
        told = found.store.read_version(found.key, offset, size)
        metadata = unmarked(told.metadata if found.metacopy is None else found.metacopy[0].get_metadata(found.metacopy[1]))
        version = None if told.version is None else f"{found.store.identity} {found.key} {told.version}"
        return told._replace(metadata=metadata, version=version if found.store.identity else None)

    def _from_first(self, ask: Callable[..., T], key: str, *arguments: int) -> T | None:
        """What the first store answers, which counts if it has data there: nothing can hide it, nor is it a whiteout."""
        if PREFIX in key or self._merge.is_overlaid():
            return None
        try:
            return ask(key, *arguments)
        except KeyError:
            return None

    def get_metadata(self, key: str, select: Any = None) -> dict[str, Any]:
        try:
            store, there = self._find(key).told_at
        except KeyError:
            return self._elsewhere("get_metadata", key, select)  # type: ignore[no-any-return]
        return unmarked(store.get_metadata(there, select))

    def query(self, select: Iterable[str] | None = None, **kwargs: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """The same. Each store answers for itself, by an index if it has one; what is hidden is left out."""
        self._check_connected()
        names = None if select is None else list(select)
        if any(name.startswith((RESERVED, OVERLAY)) for name in kwargs):
            return iter(())
        if self._merge.has_redirects() or any(links.any() for links in self._merge.links):
            return super().query(names, **kwargs)
        return self._query(names, kwargs)

    def _query(self, names: Sequence[str] | None, wanted: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        told, layers = set(), self.layers
        for number, layer in enumerate(layers):
            for key, metadata in layer.query(names, **wanted):
                answer = self._still(layer, layers[:number], key, metadata, names, wanted) if key not in told else None
                if answer is not None:
                    told.add(key)
                    yield key, answer

    def _still(
        self, layer: Store, above: Sequence[Store], key: str, metadata: dict[str, Any], names: Sequence[str] | None, wanted: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The metadata of a key that a layer has found, if the join shows it, or shows one above it that matches.

        Such a one may have been copied up since the layer above was asked.
        """
        try:
            store, there = self._merge.locate(key).told_at
            if store is not layer and store in above:
                metadata = store.get_metadata(there)
                return selected(unmarked(metadata), names) if has_all(metadata, wanted) else None
        except KeyError:
            return None
        return unmarked(metadata) if store is layer and there == key else None

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        try:
            store, there = self._find(key).told_at
        except KeyError:
            return self._elsewhere("get_xattrs", key)  # type: ignore[no-any-return]
        return unmarked_xattrs(store.get_xattrs(there))

    def prefetch(self, directory: str, names: Sequence[str]) -> None:
        """The same; each layer that shares in the directory has some of them, or has them hidden."""
        for part in self._merge.parts(directory):
            part.store.prefetch(part.prefix, names)

    def open_in_place(self, key: str) -> int:
        parts = None if is_directory_key(key) or PREFIX in key else self._merge.stacks.get(split(key)[0])
        if parts is not None and parts[0].layer == 0 and not parts[0].marks.metacopies:
            with contextlib.suppress(KeyError):
                return self._upper.open_in_place(key)
        raise Unsupported(f"{key!r} would be copied up before it is written")

    def open_local(self, key: str, flags: int) -> int:
        """The same; opening to write copies up first, without the data if ``O_TRUNC`` drops it."""
        if self._key_in_annex(key) is not None:
            return self._elsewhere("open_local", key, flags)  # type: ignore[no-any-return]
        if flags & os.O_ACCMODE == os.O_RDONLY:
            found = self._alone(key) or self._find(key)
            return found.store.open_local(found.key, flags)
        self._check_writable(key)
        if not self._upper.capabilities.local:  # known before anything is begun that would be undone
            raise Unsupported(f"{self._upper.name} does not keep {key!r} in a local file")
        with self._exclusive(key):
            found = self._find(key)
            self._copy_up(found, key, with_data=not flags & os.O_TRUNC)
            descriptor = self._upper.open_local(key, flags)
        if found.layer > 0 and self._subscribers:
            self._tell_written((key,))
        return descriptor

    def _alone(self, key: str) -> Found | None:
        """Where a value is if it is anywhere: in the one layer that has its directory. None if there are several, or marks."""
        if is_directory_key(key) or PREFIX in key or any(links.any() for links in self._merge.links):
            return None
        above, name = split(key)
        parts = self._merge.parts(above)
        if len(parts) > 1 or parts[0].marks.empty_files or parts[0].marks.metacopies:
            return None
        part = parts[0]
        return Found(part.layer, part.store, part.prefix + name, _UNKNOWN)

    def usage(self) -> Usage:
        """How much room the first store has."""
        return self._upper.usage()

    def check(self) -> Iterator[str]:
        """The same, of each layer, and of what they are joined to; what is wrong in a layer begins with its name."""
        for layer in self.layers:
            yield from (f"{layer.name}: {sentence}" for sentence in layer.check())
        yield from self._merge.check_links()
        for key, stat in walk_told(self):
            if isinstance(stat, str):
                yield stat
                continue
            try:
                if self.lookup(key.removesuffix("/")).kind != stat.kind:
                    yield f"{key!r} is listed as something else than what it is"
                elif stat.is_directory:
                    yield from self._merge.check(key)
            except (JoinfsError, OSError, KeyError) as error:
                yield f"{key!r} cannot be read: {reason(error)}"

    def drain(self) -> None:
        """The same, of all stores: a lower one may have been the first."""
        self._check_connected()
        for layer in self.layers:
            layer.drain()

    def sync(self, key: str | None = None) -> None:
        """The same; a key that only lower stores have is as durable as they keep it."""
        self._check_connected()
        if key is None:
            self._upper.sync()
        else:
            found = self._find(key)
            store, there = found.told_at
            if store is self._upper:
                self._upper.sync(there)

    def origin(self, key: str) -> dict[str, str]:
        """Answer where ``key`` comes from.

        Returns:
            ``store``, the name of the store that answers for it; ``key``, what it is called there; and
            ``layers``, the names of all the stores that share in it, one a line.

        Raises:
            KeyError: The key is not there.
        """
        found = self._find(key)
        return {"store": found.store.name, "key": found.key, "layers": "\n".join(self._layers_of(key))}

    def _layers_of(self, key: str) -> tuple[str, ...]:
        if is_directory_key(key):
            return tuple(part.store.name for part in self._merge.parts(key))
        return tuple(found.store.name for found in self._merge.holders(key))
