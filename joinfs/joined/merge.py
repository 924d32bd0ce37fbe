"""What a directory of the join is made of.

A directory is a stack of parts, top to bottom: (layer, key of the directory in that layer). The stack
ends at a part that is opaque, at a whiteout, or at something that is not a directory. A part's key is
the directory's own, except below a redirect.

Stacks are remembered per directory. They are forgotten when a layer was written through its own methods
(``Store.changes`` tells), and after ``ttl`` seconds, because others may change a layer behind our back.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from joinfs.joined.whiteout import (
    NO_MARKS,
    Marks,
    fits,
    hidden_name,
    is_overlay_whiteout,
    is_reserved,
    is_whited_out,
    read_marks,
)
from joinfs.stores import Stat, Store
from joinfs.stores.keys import ROOT, is_directory_key, split

MOST_DIRECTORIES = 20_000


class Part(NamedTuple):
    """One layer's share of a directory: ``store`` is layer number ``layer``, ``prefix`` its key there."""

    layer: int
    store: Store
    prefix: str
    marks: Marks = NO_MARKS


class Found(NamedTuple):
    """Where a key of the join is: in layer number ``layer``, as ``key`` there, which is spelled as its kind is."""

    layer: int
    store: Store
    key: str
    stat: Stat


class Merge:
    """Resolves keys of a join to keys of its layers.

    Args:
        layers: The stores, the first with priority.
        ttl: Seconds for which what a directory is made of is believed.
    """

    def __init__(self, layers: Sequence[Store], ttl: float) -> None:
        self._layers = layers
        self._ttl = ttl
        self._stacks: dict[str, tuple[float, tuple[Part, ...]]] = {}
        self._seen_changes = -1
        self._version = 0
        self._own_writes = 0

    # ---------------------------------------------------------------- the memory of stacks

    def _changes(self) -> int:
        return sum(layer.changes for layer in self._layers)

    def forget(self) -> None:
        """Believe nothing that was remembered; what is being resolved now is not remembered either."""
        self._version += 1
        self._stacks.clear()
        self._seen_changes = self._changes()

    @contextlib.contextmanager
    def own_write(self) -> Iterator[None]:
        """Around writes of the join itself, which ``remember`` what they make of a stack.

        They do not count as changes behind our back. After a failure nothing is believed.
        """
        self._own_writes += 1
        try:
            yield
        except BaseException:
            self.forget()
            raise
        finally:
            self._own_writes -= 1
            self._version += 1
            self._seen_changes = self._changes()

    def remember(self, directory: str, parts: tuple[Part, ...]) -> None:
        """Take in what ``directory`` is made of."""
        if len(self._stacks) >= MOST_DIRECTORIES:
            self._stacks.clear()
        self._stacks[directory] = (time.monotonic() + self._ttl, parts)

    def parts(self, directory: str) -> tuple[Part, ...]:
        """Answer the stack of a directory of the join.

        Raises:
            KeyError: There is no such directory.
        """
        if not self._own_writes and self._seen_changes != self._changes():
            self.forget()
        remembered = self._stacks.get(directory)
        if remembered is not None and remembered[0] > time.monotonic():
            return remembered[1]
        version = self._version
        parts = tuple(self._resolve(directory, 0))
        if not parts:
            raise KeyError(directory)
        if version == self._version:
            self.remember(directory, parts)
        return parts

    # ---------------------------------------------------------------- resolving

    def _resolve(self, directory: str, first: int) -> Iterator[Part]:
        """Yield the parts of ``directory`` in the layers from number ``first`` on."""
        if directory == ROOT:
            yield from self._root(first)
            return
        above, name = split(directory)
        try:
            parents = self.parts(above) if first == 0 else tuple(self._resolve(above, first))
        except KeyError:
            return
        for parent in parents:
            stat, hidden = look(parent, name)
            if stat is None:
                if hidden or (parent is not parents[-1] and hides(parent, name)):
                    return
                continue
            if not stat.is_directory:
                return
            part = self._part(parent.layer, parent.store, f"{parent.prefix}{name}/")
            yield part
            if part.marks.opaque:
                return
            if part.marks.redirect is not None:
                yield from self._resolve(part.marks.redirect, part.layer + 1)
                return
            if parent is not parents[-1] and hides(parent, name):
                return

    def _root(self, first: int) -> Iterator[Part]:
        for index in range(first, len(self._layers)):
            part = self._part(index, self._layers[index], ROOT)
            yield part
            if part.marks.opaque:
                return

    def _part(self, index: int, store: Store, prefix: str) -> Part:
        """A part with its marks, which the bottom layer need not be asked for."""
        bottom = index == len(self._layers) - 1
        return Part(index, store, prefix, NO_MARKS if bottom else read_marks(store, prefix))

    def find(self, key: str) -> Found:
        """Answer where whatever stands at ``key`` is, which does not end in ``/``.

        At most two requests to each layer that shares in the directory, once the directory is known.

        Raises:
            KeyError: Nothing stands there.
        """
        above, name = split(key)
        if is_reserved(name):
            raise KeyError(key)
        found = find_in(self.parts(above), name)
        if found is None:
            raise KeyError(key)
        return self._told(found, key + "/") if found.stat.implied else found

    def _told(self, found: Found, directory: str) -> Found:
        """Of a directory: where its attributes are told of, if not in the first layer that has it."""
        with contextlib.suppress(KeyError):
            for part in self.parts(directory):
                stat = part.store.stat(part.prefix)
                if not stat.implied:
                    return Found(part.layer, part.store, part.prefix, stat)
        return found

    def locate(self, key: str) -> Found:
        """Answer where ``key`` is, which is spelled as its kind is; the root's included.

        Raises:
            KeyError: It is not there, or is of the other kind.
        """
        if key == ROOT:
            top = self.parts(ROOT)[0]
            found = Found(top.layer, top.store, top.prefix, top.store.stat(top.prefix))
            return self._told(found, ROOT) if found.stat.implied else found
        found = self.find(key.removesuffix("/"))
        if found.stat.is_directory != is_directory_key(key):
            raise KeyError(key)
        return found

    def below(self, key: str) -> Found | None:
        """Answer what would stand at ``key`` (or ``key/``) if the first layer had nothing there.

        That is what a whiteout in the first layer has to hide. Whiteouts in the first layer are not
        looked at; nothing is there if the directory that holds ``key`` is the first layer's alone.
        """
        above, name = split(key)
        try:
            parts = self.parts(above)
        except KeyError:
            return None
        return find_in([part for part in parts if part.layer > 0], name)

    def list(self, directory: str) -> Iterator[tuple[str, Stat]]:
        """Yield what is directly in a directory of the join, merged.

        Raises:
            KeyError: There is no such directory.
        """
        seen: set[str] = set()
        parts = self.parts(directory)
        for part in parts:
            hidden = set(part.marks.long_whiteouts)
            last = part is parts[-1]
            for name, stat in entries(part):
                if is_reserved(name):
                    hidden.add(hidden_name(name) or "")
                elif is_overlay_whiteout(part.store, part.prefix + name, stat, part.marks):
                    hidden.add(name)
                elif name not in seen:
                    if not last:
                        seen.add(name)
                    yield name, self._told(Found(part.layer, part.store, name, stat), f"{directory}{name}/").stat if stat.implied else stat
            seen |= hidden


def entries(part: Part) -> Iterator[tuple[str, Stat]]:
    """What a part holds, marks and all; nothing if the directory went away behind our back."""
    with contextlib.suppress(KeyError):
        yield from part.store.list(part.prefix)


def look(part: Part, name: str) -> tuple[Stat | None, bool]:
    """Answer ``(attributes, hidden)`` of ``name`` in a part, with one request.

    The attributes are None if nothing is there; ``hidden`` says that an overlayfs whiteout is.
    """
    key = part.prefix + name
    try:
        stat = part.store.lookup(key)
        overlay_whiteout = is_overlay_whiteout(part.store, key, stat, part.marks)
    except KeyError:
        return None, False
    return (None, True) if overlay_whiteout else (stat, False)


def hides(part: Part, name: str) -> bool:
    """Whether a part has a whiteout of ``name``, in the spelling that is written; one request."""
    if fits(name):
        return is_whited_out(part.store, part.prefix, name)
    return name in part.marks.long_whiteouts


def find_in(parts: Sequence[Part], name: str) -> Found | None:
    """What stands at ``name`` in a stack: the topmost that no part above it hides."""
    for part in parts:
        stat, hidden = look(part, name)
        if stat is not None:
            slash = "/" if stat.is_directory else ""
            return Found(part.layer, part.store, f"{part.prefix}{name}{slash}", stat)
        if hidden or (part is not parts[-1] and hides(part, name)):
            return None
    return None
