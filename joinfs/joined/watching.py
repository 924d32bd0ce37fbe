"""How a join tells of what its layers tell, in its own keys.

A layer's key is the join's, except below a redirect. A mark tells of what it marks. And where a directory of the
join is not made of the same any more, all that is below it may be another.
"""

import contextlib
import functools
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from joinfs.errors import NotConnected
from joinfs.joined.found import Found
from joinfs.joined.stacks import Part, Stack
from joinfs.joined.whiteout import OPAQUE, hidden_name, is_reserved
from joinfs.joined.writing import Writing
from joinfs.stores import Store
from joinfs.stores.key_tree import KeyTree
from joinfs.stores.keys import ROOT, directory_key, is_directory_key, split
from joinfs.stores.telling import OTHERS, Subscriber, Watcher, tell_of, told_since, with_all_below

_Place = tuple[int, str]


class Watching(Writing):
    """The part of JoinedStore that listens to its layers, and what its writes do to what is watched."""

    def __init__(self, layers: Iterable[Store], event_manager: Any = None) -> None:
        super().__init__(event_manager)
        self.layers = tuple(layers)
        self._listeners = self._new_listeners()
        self._watched = Watched()
        self._ended: list[str] = []
        # Counts the beginnings and ends of writes that remake directories: odd while one is going on.
        self._remade = 0
        self._remaking_depth = 0
        self._judging = threading.Lock()
        self._postponed: list[tuple[int, str | None, float]] = []

    def subscribe(self, function: Subscriber) -> None:
        """The same; it is told of what is written through the stores of the join as well."""
        with self._subscribing:
            super().subscribe(function)
            for layer, listener in zip(self.layers, self._listeners, strict=True):
                layer.subscribe(listener)

    def unsubscribe(self, function: Subscriber) -> None:
        with self._subscribing:
            super().unsubscribe(function)
            if not self._subscribers:
                for layer, listener in zip(self.layers, self._listeners, strict=True):
                    layer.unsubscribe(listener)

    def _new_listeners(self) -> tuple[Subscriber, ...]:
        return tuple(functools.partial(self._layer_told, number) for number in range(len(self.layers)))

    @contextlib.contextmanager
    def _exchanging_layers(self, layers: tuple[Store, ...]) -> Iterator[None]:
        """Around what makes of other layers what the join is; nothing is watched afterwards, and the new ones are listened to."""
        with self._subscribing:
            for layer, listener in zip(self.layers, self._listeners, strict=True):
                layer.unsubscribe(listener)
            for number, prefix in self._watched.take_below(ROOT):
                self.layers[number].unwatch(prefix)
            self.layers = layers
            self._listeners = self._new_listeners()
            yield
            if self._subscribers:
                for layer, listener in zip(self.layers, self._listeners, strict=True):
                    layer.subscribe(listener)

    # ---------------------------------------------------------------- watching

    def watch(self, directory: str) -> bool:
        """The same: what each layer has of the directory is watched, or if it has nothing, what it has of the nearest above."""
        self._check_connected()
        if self._watched.stack(directory) is not None:
            return True
        try:
            return is_directory_key(directory) and self._begin_to_watch(directory)
        except KeyError:
            self.unwatch(directory)
            return False

    def _begin_to_watch(self, directory: str) -> bool:
        """Watch what it is made of, and find out then what that is: what was known may have changed before."""
        tried: dict[_Place, bool] = {}
        new = self._expected(directory)
        while new:
            for part in new:
                tried[part.layer, part.prefix] = part.store.watch(part.prefix)
            self._merge.stacks.forget_directory(directory)
            parts = self._merge.parts(directory)
            wanted = {(part.layer, part.prefix): part for part in self._places(directory, parts)}
            new = [part for place, part in wanted.items() if place not in tried and not self._watched.directories(*place)]
        self._watched.put(directory, parts)
        for number, prefix in [place for place in tried if place not in wanted]:
            self.layers[number].unwatch(prefix)  # hidden by those above
        if all(tried.get(place, True) for place in wanted):
            return True
        self.unwatch(directory)
        return False

    def _expected(self, directory: str) -> list[Part]:
        """What a directory is made of if nothing is hidden and nothing has another name."""
        if directory == ROOT:
            return list(self._merge.parts(ROOT))
        above, name = split(directory)
        return [Part(part.layer, part.store, f"{part.prefix}{name}/") for part in self._merge.parts(above)]

    def _places(self, directory: str, parts: Stack) -> Iterator[Part]:
        """What to watch of a directory; of those above nearly always that is watched already."""
        yield from parts
        have = {part.layer for part in parts}
        while directory != ROOT and len(have) < len(self.layers):
            directory = split(directory)[0]
            for part in self._merge.parts(directory):
                if part.layer not in have:
                    have.add(part.layer)
                    yield part

    def catch_up(self) -> None:
        for layer in self.layers:
            layer.catch_up()

    def unwatch(self, directory: str) -> None:
        for number, prefix in self._watched.take(directory):
            self.layers[number].unwatch(prefix)

    # ---------------------------------------------------------------- what our own writes do

    @contextlib.contextmanager
    def _remaking(self) -> Iterator[None]:
        """Around a write that has directories be made of something else, until what is watched is that.

        What layers tell meanwhile cannot be judged, and is looked at when the write is done.
        """
        if self._remaking_depth == 0:
            with self._judging:
                self._remade += 1
        self._remaking_depth += 1  # one thread writes at a time
        try:
            yield
        finally:
            self._remaking_depth -= 1
            if self._remaking_depth == 0:
                with self._judging:
                    self._remade += 1

    def _copy_up(self, found: Found, key: str, with_data: bool = True) -> None:
        if found.layer == 0 or not found.stat.is_directory:
            super()._copy_up(found, key, with_data)
            return
        with self._remaking():
            super()._copy_up(found, key, with_data)
            self._watch_again(key)

    def _rename(self, old: str, new: str) -> None:
        if not is_directory_key(old):
            super()._rename(old, new)
            return
        with self._remaking():
            super()._rename(old, new)
            self._watched.move(old, new)
            self._watch_again(new)

    def _exchange(self, first: str, second: str) -> None:
        one, other = directory_key(first), directory_key(second)
        with self._remaking():
            super()._exchange(first, second)
            self._watched.move(one, other, swap=True)
            self._watch_again(one)
            self._watch_again(other)

    def _watch_again(self, directory: str) -> None:
        """Watch what a directory is made of now, if it was watched; if that cannot be, tell so at the end of the write."""
        if self._watched.stack(directory) is not None:
            self._watched.take(directory)
            if not self.watch(directory):
                self._ended.append(directory)

    def _tell_written(self, keys: tuple[str, ...]) -> None:
        ended, self._ended = self._ended, []
        super()._tell_written(keys)
        with self._judging:
            postponed, self._postponed = self._postponed, []
        if ended or postponed:  # not in the thread that wrote: these are others' doings
            Watcher(target=self._tell_late, args=(ended, postponed), name=f"changes of {self.name}", daemon=True).start()

    def _tell_late(self, ended: Iterable[str], postponed: Iterable[tuple[int, str | None, float]]) -> None:
        with contextlib.suppress(NotConnected):  # it was disconnected meanwhile, and nobody wants to know any more
            for directory in ended:
                self._tell_all_below(with_all_below(directory))
            for number, key, since in postponed:
                tell_of(since)
                self._layer_told(number, key)

    # ---------------------------------------------------------------- what a layer tells

    def _layer_told(self, number: int, key: str | None) -> None:
        if number == 0 and self._merge.stacks.is_mine():
            return  # a step of a write of our own, which is told when it is done
        for ours in dict.fromkeys(self._in_the_join(number, key)):
            if not self._judged(ours):
                since = told_since()
                with self._judging:
                    self._postponed.append((number, key, OTHERS if since is None else since))
                if self._remade % 2 == 0:  # by now: nobody else may come to look
                    self._tell_written(())

    def _judged(self, key: str | None) -> bool:
        """Tell what may have changed; False if that cannot be said now."""
        remade = self._remade
        if remade % 2:
            return False
        if key is not None and not key.endswith("/"):
            if self._is_made_of_the_same(directory_key(key)):
                self._tell_changed(key)
                return True
            key = with_all_below(key)
        return self._tell_all_below(key, remade)

    def _tell_all_below(self, key: str | None, remade: int | None = None) -> bool:
        """Tell that all below a key may have changed, and watch that no more. False if directories were remade meanwhile."""
        with self._judging:
            if remade is not None and remade != self._remade:
                return False
            unused = self._watched.take_below(key or ROOT)
        if key is None:
            self._merge.stacks.forget()
        else:
            self._merge.stacks.forget_directory(key)
        for number, prefix in unused:
            self.layers[number].unwatch(prefix)
        self._tell_changed(key)
        return True

    def _is_made_of_the_same(self, directory: str) -> bool:
        """Whether what is there, if it is a directory, is what was watched. Of another nobody can know what is in it."""
        self._merge.stacks.forget_directory(directory)
        before = self._watched.stack(directory)
        if before is None:
            return True
        try:
            return _shown_by(self._merge.parts(directory)) == _shown_by(before)
        except KeyError:
            return False

    def _in_the_join(self, number: int, key: str | None) -> Iterator[str | None]:
        """The keys of the join for one of a layer."""
        if key is None or key == ROOT:
            yield key
            return
        above, name = split(key)
        if name == OPAQUE:
            for directory in self._directories(number, above):
                yield None if directory is None else with_all_below(directory)
            return
        hidden = hidden_name(name)
        if is_reserved(name) and hidden is None:
            return
        slash = "/" if key.endswith("/") else ""
        for directory in self._watched.directories(number, directory_key(key)):  # where it has another name
            yield directory.removesuffix("/") + slash
        for directory in self._directories(number, above):
            yield None if directory is None else f"{directory}{hidden or name}{slash}"

    def _directories(self, number: int, prefix: str) -> Sequence[str | None]:
        """The directories of the join that have a layer's directory as a part; None for not knowing which."""
        known = self._watched.directories(number, prefix)
        return known or ((None,) if self._merge.has_redirects() else (prefix,))


class Watched:
    """The directories of a join that are watched, and what they are made of: for each part, which directories have it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stacks: KeyTree[Stack] = KeyTree()
        self._directories: dict[_Place, set[str]] = {}

    def stack(self, directory: str) -> Stack | None:
        """Answer what a directory is made of, if it is watched."""
        return self._stacks.things.get(directory)

    def directories(self, number: int, prefix: str) -> Sequence[str]:
        """Answer the directories that have a part."""
        with self._lock:
            return tuple(self._directories.get((number, prefix), ()))

    def put(self, directory: str, stack: Stack) -> None:
        """A directory is watched, and made of that."""
        with self._lock:
            self._remove(directory, self._stacks.things.get(directory, ()))
            self._put(directory, stack)

    def take(self, directory: str) -> list[_Place]:
        """A directory is watched no more; answer the parts that no other one has."""
        with self._lock:
            return self._remove(directory, self._stacks.take(directory) or ())

    def take_below(self, directory: str) -> list[_Place]:
        """As ``take``, of a directory and all below it."""
        with self._lock:
            taken = self._stacks.take_below(directory).items()
            return [place for key, stack in taken for place in self._remove(key, stack)]

    def move(self, old: str, new: str, swap: bool = False) -> None:
        """A directory was renamed, or two were swapped, with all that is below: in the first layer that is so as well."""
        with self._lock:
            moved, other = self._stacks.take_below(old), self._stacks.take_below(new)
            for key, stack in [*moved.items(), *other.items()]:
                self._remove(key, stack)
            self._put_moved(moved, old, new)
            if swap:
                self._put_moved(other, new, old)

    def clear(self) -> None:
        """Nothing is watched."""
        with self._lock:
            self._stacks.clear()
            self._directories.clear()

    def _put_moved(self, stacks: dict[str, Stack], old: str, new: str) -> None:
        for key, stack in stacks.items():
            place = new + key[len(old) :]
            self._put(place, tuple(part if part.layer else part._replace(prefix=place) for part in stack))

    def _put(self, directory: str, stack: Stack) -> None:
        self._stacks.put(directory, stack)
        for part in stack:
            self._directories.setdefault((part.layer, part.prefix), set()).add(directory)

    def _remove(self, directory: str, stack: Stack) -> list[_Place]:
        unused = []
        for part in stack:
            place = part.layer, part.prefix
            having = self._directories.get(place, set())
            having.discard(directory)
            if not having:
                self._directories.pop(place, None)
                unused.append(place)
        return unused


def _shown_by(stack: Stack) -> list[tuple[Any, ...]]:
    """What of a stack decides what is seen: where it goes on is seen by the parts, whatever mark says so."""
    return [(part.layer, part.prefix, part.marks.long_whiteouts, part.marks.empty_files) for part in stack]
