"""What a directory of the join is made of.

A directory is a stack of parts, top to bottom: (layer, key of the directory in that layer). The stack
ends at a part that is opaque, at a whiteout, or at something that is not a directory. A part's key is
the directory's own, except below a redirect. How long stacks are remembered is ``stacks``.
"""

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from joinfs.errors import CorruptStore, InvalidKey
from joinfs.joined.found import Found, Listing, entries_shown, hides, look, number_in_join, told_by
from joinfs.joined.links import DIRECTORY, Links, number_apart
from joinfs.joined.stacks import MOST_LOOKS, Part, Stack, Stacks
from joinfs.joined.whiteout import (
    NO_MARKS,
    is_overlay_whiteout,
    is_reserved,
    metacopy,
    overlay_redirect,
    read_marks,
)
from joinfs.stores import Stat, Store
from joinfs.stores.keys import ROOT, check_key, hash_of_key, is_directory_key, split

# How often a directory is listed again because somebody was writing.
MOST_LISTINGS = 3
# A mark does not say that there are more layers than this has digits.
MOST_DIGITS = 6
# How many directories are looked at anew at a time.
MOST_LOOKING = 8
T = TypeVar("T")

log = logging.getLogger(__name__)


class Merge:
    """Resolves keys of a join to keys of its layers.

    Args:
        layers: The stores, the first with priority.
        ttl: Seconds for which what a directory is made of is believed.
        keeps_links: Whether files with several keys in a lower layer stay one, if the first layer can do that.

    Attributes:
        stacks: What was found out.
        links: For each layer, the copies that it has of files that have several keys in a lower layer.
    """

    def __init__(self, layers: Sequence[Store], ttl: float, keeps_links: bool) -> None:
        self._layers = layers
        self._lock = threading.Lock()
        self._looking: set[str] = set()
        self._overlaid: dict[int, bool] = {}
        self.stacks = Stacks(layers, ttl)
        self.links = tuple(Links(layer, keeps_links and not index, ttl) for index, layer in enumerate(layers))

    def parts(self, directory: str) -> Stack:
        """Answer the stack of a directory of the join.

        Raises:
            KeyError: There is no such directory.
        """
        known = self._known(directory)
        return self._found_out(directory) if known is None else known

    def _known(self, directory: str) -> Stack | None:
        known = self.stacks.get(directory)
        if known is None and self._is_slow():
            known = self.stacks.late(directory)
            if known is not None:
                self._look_again(directory)
        return known

    def _found_out(self, directory: str) -> Stack:
        """Find out what a directory is made of, and those above it that are not known; step by step, as it may be deep."""
        version = self.stacks.version()
        unknown, parts = [directory], None
        while parts is None and unknown[-1] != ROOT:
            above = split(unknown[-1])[0]
            parts = self._known(above)
            if parts is None:
                unknown.append(above)
        for key in reversed(unknown):
            parts = tuple(self._root(0) if parts is None else self._below(parts, split(key)[1]))
            if not parts:
                raise KeyError(directory)
            self.stacks.remember(key, parts, version)
        return parts or ()

    def _is_slow(self) -> bool:
        return any(layer.capabilities.slow for layer in self._layers)

    def _look_again(self, directory: str) -> None:
        """Find out in a thread what a directory is made of by now, so that nobody who only wants what is near waits for it."""
        with self._lock:
            if directory in self._looking or len(self._looking) >= MOST_LOOKING:
                return
            self._looking.add(directory)
        threading.Thread(target=self._look_now, args=(directory,), name=f"joinfs looks at {directory}", daemon=True).start()

    def _look_now(self, directory: str) -> None:
        try:
            self._found_out(directory)
        except Exception as error:  # who asks next is told
            log.debug("%s: %s", directory, error)
            self.stacks.forget_directory(directory)
        finally:
            with self._lock:
                self._looking.discard(directory)

    # ---------------------------------------------------------------- resolving

    def _resolve(self, directory: str, first: int) -> Stack:
        """Answer the parts of ``directory`` in the layers from number ``first`` on."""
        parts = tuple(self._root(first))
        for name in directory.removesuffix("/").split("/") if directory else ():
            parts = tuple(self._below(parts, name))
        return parts

    def _below(self, parents: Stack, name: str) -> Iterator[Part]:
        """Yield the parts of a directory in one that has these parts."""
        for number, parent in enumerate(parents):
            part, ends = self._share(parent, name, parent is parents[-1])
            if part is not None:
                yield part
                if part.marks.redirect is not None and not ends:
                    yield from self._resolve(part.marks.redirect, part.layer + 1)
                    return
                if part.marks.renamed is not None and not ends:
                    yield from self._below(parents[number + 1 :], part.marks.renamed)
                    return
            if ends:
                return

    def _share(self, parent: Part, name: str, last: bool) -> tuple[Part | None, bool]:
        """What a part of a directory's parent has of it, and whether it hides the rest."""

        def ask() -> tuple[Part | None, bool]:
            stat, hidden = look(parent, name, last)
            if stat is None or not stat.is_directory:
                return None, hidden or stat is not None
            part = self._part(parent.layer, parent.store, f"{parent.prefix}{name}/")
            if part.marks.opaque or part.marks.redirect is not None or part.marks.renamed is not None:
                return part, part.marks.opaque
            return part, not last and hides(parent, name)

        return self._asked(parent, ask)

    def _asked(self, part: Part, ask: Callable[[], T]) -> T:
        """What is asked of a part; of the first layer, which others may be writing to, none of it between two steps."""
        return self.stacks.steady(ask) if part.layer == 0 and len(self._layers) > 1 else ask()

    def _root(self, first: int) -> Iterator[Part]:
        for index in range(first, len(self._layers)):
            part = self._part(index, self._layers[index], ROOT)
            yield part
            if part.marks.opaque:
                return

    def first_part(self, directory: str) -> Part:
        """The first layer's part of a directory, with its marks as they are now."""
        return self._part(0, self._layers[0], directory)

    def _part(self, index: int, store: Store, prefix: str) -> Part:
        """A part with its marks, which the bottom layer need not be asked for."""
        if index == len(self._layers) - 1:
            return Part(index, store, prefix, NO_MARKS)
        marks = read_marks(store, prefix)
        if prefix == ROOT:
            self._overlaid[index] = marks.overlaid
        return Part(index, store, prefix, marks._replace(metacopies=True) if self._overlaid.get(index) else marks)

    def is_overlaid(self) -> bool:
        """Whether overlayfs has written to the first layer: then files in it may have zeros in place of their data."""
        known = self._overlaid.get(0)
        return self._part(0, self._layers[0], ROOT).marks.overlaid if known is None and len(self._layers) > 1 else bool(known)

    def find(self, key: str) -> Found:
        """Answer where whatever stands at ``key`` is, which does not end in ``/``.

        At most two requests to each layer that shares in the directory, once the directory is known.

        Raises:
            KeyError: Nothing stands there.
        """
        above, name = split(key)
        if not name or is_reserved(name):
            raise KeyError(key)
        found = self._find_alone(above, name) or self._find_still(above, name)
        if found is None:
            raise KeyError(key)
        return self._told(found, key + "/") if found.stat.implied else found

    def _find_alone(self, directory: str, name: str) -> Found | None:
        """What stands at a name in a directory that one layer has alone, which takes one request; None for not knowing."""
        version = self.stacks.version()
        parts = self.stacks.get(directory)
        if parts is None or len(parts) > 1 or parts[0].marks.metacopies:
            return None
        part = parts[0]
        key = part.prefix + name
        try:
            stat = part.store.lookup(key)
        except KeyError:
            if self.stacks.is_quiet(version):
                raise
            return None
        if is_overlay_whiteout(part.store, key, stat, part.marks) or not self.stacks.is_quiet(version):
            return None
        return self._found_at(part, key, stat, alone=True)

    def _found_at(self, part: Part, key: str, stat: Stat, alone: bool) -> Found:
        """What a part of a directory has at a key."""
        told = self.told_by(part, key, stat, alone)
        if part.layer > 0 and stat.nlink > 1 and not stat.is_directory:
            return self._one_of_several(Found(part.layer, part.store, key, told), told)
        return Found(part.layer, part.store, key + "/" if stat.is_directory else key, told)

    def _one_of_several(self, found: Found, source: Stat) -> Found:
        """Where a file is that has several keys in a lower layer: it may have been copied up through another one."""
        for layer in reversed(range(found.layer)):
            links, number = self.links[layer], source.file_id
            assert number is not None, "it has one in a join"
            copy = links.find(number, source)
            if copy is None:
                continue
            if copy.is_of_another:
                return found._replace(stat=source._replace(file_id=number_apart(number), breaks=True))
            if copy.is_record:
                source = source._replace(nlink=copy.left)
                continue
            stat = copy.stat._replace(nlink=copy.stat.nlink - 1 + copy.left)
            if layer == 0:
                return Found(found.layer, links.store, copy.key, stat._replace(file_id=number), source=source, is_copy=True)
            source = self._numbered(layer, copy.key, stat)
            found = Found(layer, links.store, copy.key, source)
        if not self.links[0].stays_one(source.mode):
            return found._replace(stat=source._replace(breaks=source.nlink > 1))
        return found._replace(stat=source._replace(steady=source.nlink > 1), source=source)

    def told_by(self, part: Part, key: str, stat: Stat, alone: bool) -> Stat:
        """Attributes as the join tells them; see ``found``."""
        return told_by(part, key, stat, alone, len(self._layers) - part.layer)

    def forget(self) -> None:
        """Believe nothing of what was found out."""
        self.stacks.forget()
        for links in self.links:
            links.forget()

    def told_new(self, key: str, stat: Stat) -> Stat:
        """The same of something that the first layer has just made."""
        return self._numbered(0, key, stat)

    def _numbered(self, layer: int, key: str, stat: Stat) -> Stat:
        if stat.file_id is None:
            number, stat = hash_of_key(key), stat._replace(placed=True)
        else:
            number = stat.file_id
        return stat.numbered(number_in_join(len(self._layers) - layer, number), stat.nlink)

    def _find_still(self, directory: str, name: str) -> Found | None:
        """What stands at a name in a directory, if that is there."""
        try:
            return self._find_below(directory, name)
        except KeyError:
            return None

    def _find_below(self, above: str, name: str) -> Found | None:
        """What stands at a name in a directory, which is still made of the same when that is known."""
        found = None
        for _ in range(MOST_LOOKS):
            version = self.stacks.version()
            parts = self.parts(above)
            found = self._find_in(parts, name)
            if version == self.stacks.version() or self.stacks.is_mine():
                break
            if (found is not None and found.layer == 0) or self.parts(above) == parts:
                break
        return found

    def _find_in(self, parts: Sequence[Part], name: str) -> Found | None:
        """What stands at ``name`` in a stack: the topmost that no part above it hides."""
        for number, part in enumerate(parts):
            last = part is parts[-1]
            stat, hidden = self._asked(part, functools.partial(look, part, name, last))
            if stat is not None and part.marks.metacopies and stat.is_file:
                return self._with_data(part, name, stat, parts[number + 1 :])
            if stat is not None:
                return self._found_at(part, part.prefix + name, stat, alone=last)
            if hidden:
                return None
        return None

    def _with_data(self, part: Part, name: str, stat: Stat, below: Sequence[Part]) -> Found:
        """A file of a part where such may be without their data: where that is, with the attributes of this one.

        Raises:
            CorruptStore: The layers below do not have it.
        """
        key = part.prefix + name
        place, marks = metacopy(part.store, key)
        if place is None and marks is None:
            return self._found_at(part, key, stat, alone=False)
        data = self._at(place, part.layer + 1) if marks is None else self._overlaid_data(marks, part, name, below)
        if data is None or not data.stat.is_file:
            raise CorruptStore(f"{key!r} in {part.store.name} is a copy without its data, which is in none of the stores below")
        size = data.stat.size if marks is None else stat.size
        told = stat._replace(nlink=1, size=size, file_id=data.stat.file_id)
        return Found(data.layer, data.store, data.key, told, metacopy=(part.store, key))

    def _overlaid_data(self, marks: dict[str, str], part: Part, name: str, below: Sequence[Part]) -> Found | None:
        """Where the data is of what has these marks of overlayfs."""
        elsewhere, renamed = overlay_redirect(marks)
        if elsewhere is None:
            return self._find_in(below, renamed or name)
        above, name = split(elsewhere)
        return self._find_in(self._resolve(above, part.layer + 1), name)

    def place(self, found: Found) -> str:
        """How a mark says where something was found: how many layers there are from there down, ``/``, and the key."""
        return f"{len(self._layers) - found.layer}/{found.key}"

    def _at(self, place: str | None, first: int) -> Found | None:
        """What is where a mark says, in one of the layers from number ``first`` on; None also if it makes no sense."""
        depth, _, key = (place or "").partition("/")
        layer = len(self._layers) - int(depth) if depth.isascii() and depth.isdigit() and len(depth) < MOST_DIGITS else -1
        if not first <= layer < len(self._layers):
            return None
        try:
            check_key(key)
            above, name = split(key)
            return self._find_in((self._part(layer, self._layers[layer], above),), name)
        except (InvalidKey, KeyError):
            return None

    def has_redirects(self) -> bool:
        """Whether keys of a layer may be others in the join."""
        return any(part.marks.redirects for part in self.parts(ROOT))

    def check(self, directory: str) -> Iterator[str]:
        """Yield a sentence if a directory of the join says that it goes on where nothing is."""
        parts = self.parts(directory)
        last = parts[-1]
        target = last.marks.redirect
        if target is not None and not self._resolve(target, last.layer + 1) and last.layer + 1 < len(self._layers):
            yield f"{directory!r} goes on as {target!r} in the stores below {last.store.name}, where there is no such directory"

    def check_links(self) -> Iterator[str]:
        """Yield a sentence for each copy of a file with several keys that is not found by the others any more."""
        for number, place in self.links[0].places():
            if place.partition("/")[2].startswith(DIRECTORY):  # of a copy in the layer below, whose own check it is
                continue
            found = self._at(place, 1)
            if found is None or not found.is_copy or found.stat.file_id != number:
                yield f"{place.partition('/')[2]!r} was changed through one of its hard links, and is not the same file any more in the stores below: the others show what it was"

    def holders(self, key: str) -> Iterator[Found]:
        """Yield what each layer that shares in the directory of ``key`` has there, hidden or not."""
        above, name = split(key)
        for part in self.parts(above):
            found = self._find_in((part,), name)
            if found is not None:
                yield found

    def _told(self, found: Found, directory: str) -> Found:
        """Of a directory: where its attributes are told of, if not in the first layer that has it."""
        with contextlib.suppress(KeyError):
            for part in self.parts(directory):
                stat = part.store.stat(part.prefix)
                if not stat.implied:
                    return Found(part.layer, part.store, part.prefix, self.told_by(part, part.prefix, stat, alone=False))
        return found

    def locate(self, key: str) -> Found:
        """Answer where ``key`` is, which is spelled as its kind is; the root's included.

        Raises:
            KeyError: It is not there, or is of the other kind.
        """
        if key == ROOT:
            top, *others = self.parts(ROOT)
            stat = self.told_by(top, ROOT, top.store.stat(top.prefix), alone=not others)
            found = Found(top.layer, top.store, top.prefix, stat)
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
        return self._find_in([part for part in parts if part.layer > 0], name)

    def list(self, directory: str) -> Iterator[tuple[str, Stat]]:
        """Yield what is directly in a directory of the join, merged.

        Raises:
            KeyError: There is no such directory.
        """
        begun = self._begin_listing(directory)
        seen: set[str] = set()
        for part in begun.parts:
            last = part is begun.parts[-1]
            found, hidden = begun.first if begun.first is not None and part.layer == 0 else entries_shown(part)
            if not seen and begun.quiet and (last or part.layer == 0):
                yield from self._first_shown(part, found, directory, None if last else seen)
            else:
                yield from self._shown_below(part, found, directory, seen, last, begun.quiet)
            seen |= hidden

    def _first_shown(
        self, part: Part, found: Iterable[tuple[str, Stat]], directory: str, seen: set[str] | None
    ) -> Iterator[tuple[str, Stat]]:
        """What a part shows that nothing is above of; its names are added to ``seen``."""
        alone = seen is None
        depth = len(self._layers) - part.layer
        for name, stat in found:
            if seen is not None:
                seen.add(name)
            if part.marks.metacopies and stat.is_file:
                place = self._find_still(directory, name)
                if place is not None:
                    yield name, place.stat
            elif stat.implied:
                yield name, self._told(Found(part.layer, part.store, name, stat), f"{directory}{name}/").stat
            elif stat.nlink == 1 and stat.file_id is not None and not part.marks.impure:  # as nearly always
                yield name, stat.numbered(number_in_join(depth, stat.file_id), 1)
            else:
                yield name, self._found_at(part, part.prefix + name, stat, alone).stat

    def _shown_below(
        self, part: Part, found: Iterable[tuple[str, Stat]], directory: str, seen: set[str], last: bool, quiet: bool
    ) -> Iterator[tuple[str, Stat]]:
        """What a part shows of which nothing above has the name, or hides it."""
        for name, stat in found:
            if name in seen:
                continue
            if not last:
                seen.add(name)
            place: Found | None = self._found_at(part, part.prefix + name, stat, alone=last)
            if (part.layer > 0 and not quiet) or (part.marks.metacopies and stat.is_file):
                place = self._find_still(directory, name)
            if place is not None:
                yield name, self._told(place, f"{directory}{name}/").stat if place.stat.implied else place.stat

    def _begin_listing(self, directory: str) -> "_Begun":
        """What the first layer shows, read at once while nobody is writing, as far as that can be."""
        for _ in range(MOST_LISTINGS):
            version = self.stacks.version()
            parts = self.parts(directory)
            if parts[0].layer > 0 or len(parts) == 1:
                return _Begun(parts, None, True)
            found, hidden = entries_shown(parts[0])
            first = list(found), hidden
            if self.stacks.is_quiet(version):
                return _Begun(parts, first, True)
        return _Begun(parts, first, False)


class _Begun(NamedTuple):
    """A listing that has been begun.

    Attributes:
        parts: The stack of the directory.
        first: What the first layer shows and hides; None if it does not share, or alone has the directory.
        quiet: Whether nobody was writing meanwhile. If somebody was, a name may have been passed over, and what is
            below has to be asked for one by one.
    """

    parts: Stack
    first: Listing | None
    quiet: bool
