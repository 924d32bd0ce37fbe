"""Committing: what the first store of a join changes is done to a store below it, and is no change any more.

The store that takes it is seen as a join itself, of it and those below it, so that all is done by the same rules. Where it has
transactions the whole is one; what is renamed goes by way of a directory that is there only within it, so that names can be swapped and
passed on in any order. Where it has none, everything is copied before anything is deleted, and what was interrupted can be begun again.

Two stores cannot be written in one step: the first one is emptied when the other has everything, which shows nothing new. Only a
directory that was renamed would miss what it goes on as below, if it stayed; so before the commit the first store's root gets ``joinfs.commit``, a
random name for it, and the other store's root, in its transaction, ``joinfs.committed``, the same. Who connects a join that
has both finishes it, and so does who commits again.
"""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from joinfs.errors import Conflict, ReadOnly, Unsupported, UsageError
from joinfs.joined.conflicts import conflicts
from joinfs.joined.difference import ADDED, ATTRIBUTES, DELETED, RENAMED, REPLACES, Change, Difference, is_below
from joinfs.joined.found import Found
from joinfs.joined.letting_go import let_go
from joinfs.joined.store import JoinedStore
from joinfs.joined.unfinished import COMMIT, COMMITTED, discard_everything, finish_commit, forget_note, is_committed
from joinfs.stores import Stat, Store
from joinfs.stores.keys import ROOT, ancestors, directory_key, is_directory_key, split
from joinfs.stores.progress import Work
from joinfs.stores.trees import copy_tree, delete_tree
from joinfs.stores.value import Metadata
from joinfs.stores.whole import whole


def commit(
    join: JoinedStore, into: Store | None = None, paths: Sequence[str] = (), *, force: bool = False, dry_run: bool = False
) -> list[Change]:
    """Do to a lower store of a join what its first store changes, and take it out of that.

    What is seen in the join stays what it is. Emits StoreProgress events, which count bytes.

    Args:
        join: Connected; nobody else writes to it meanwhile.
        into: One of its stores; None is the second.
        paths: Keys; only what is changed at and below them is committed, with the new directories that it is in. Without any, everything is.
        force: Do it also where the lower store was changed since.
        dry_run: Look for conflicts, and change nothing.

    Returns:
        What was committed.

    Raises:
        Conflict: What is to be changed there was changed since, or is hidden by a store between.
        ReadOnly: The lower store takes no writes.
        UsageError: It is none of the join's; or paths are given, and what is changed there was renamed, has hard links, or is of another kind.

    After a failure the lower store is as it was, if it has transactions; in any case the first one is, and it can be done again.
    """
    target = _target(join, into)
    finish_commit(join.layers[0], join.layers[1:])
    difference = Difference(join)
    changes = list(difference.changes())
    if paths:
        changes = _chosen(changes, paths)
        _check_separable(difference, changes)
    onto = JoinedStore(join.layers[join.layers.index(target) :])
    found = {} if force and join.layers[1] is target else conflicts(difference, onto, changes, only_between=force)
    if found:
        first, reason = next(iter(found.items()))
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise Conflict(f"nothing was committed: {first!r} {reason}{more}", found)
    if changes and not dry_run:
        _committed(difference, onto, changes, bool(paths))
        join._merge.forget()
    return changes


def _committed(difference: Difference, onto: JoinedStore, changes: Sequence[Change], is_part: bool) -> None:
    """Do changes to the lower store, and then take them out of the first one, also if it was interrupted between the two."""
    upper, target, name = difference.join.layers[0], onto.layers[0], secrets.token_hex(8)
    moves = any(change.kind == RENAMED and is_directory_key(change.key) for change in changes)  # which is not so of a part
    replay = _Replay(difference.join, onto, changes, difference)
    if moves:
        upper.update_metadata(ROOT, {COMMIT: name})
    done = False
    try:
        replay.run(name)
        done = True
    finally:
        if done or is_committed(target, name):
            if is_part:
                difference.join._merge.forget()
                let_go(difference, changes)
            else:
                discard_everything(upper)
            forget_note(target, COMMITTED)
        forget_note(upper, COMMIT)


def _target(join: JoinedStore, into: Store | None) -> Store:
    if into is None:
        if len(join.layers) < 2:
            raise UsageError(f"{join.name} stands alone: there is no store below it to commit to")
        into = join.layers[1]
    if into not in join.layers[1:]:
        raise UsageError(f"{into.name} is none of the stores below the first one, {join.layers[0].name}")
    if not into.capabilities.writable:
        raise ReadOnly(f"{into.name} takes no writes, so nothing can be committed to it")
    return into


def _chosen(changes: Sequence[Change], paths: Sequence[str]) -> list[Change]:
    """Those at and below some paths, with the new directories that they are in."""
    chosen = {change.key for change in changes if is_below(change, paths)}
    above = {directory for key in chosen for directory in ancestors(key)} - chosen
    return [change for change in changes if is_below(change, paths) or (change.key in above and change.kind in {ADDED, RENAMED})]


class _Step(NamedTuple):
    """A change, and what is to be there then; looked up before anything is done."""

    change: Change
    found: Found | None
    stat: Stat
    metadata: Metadata
    xattrs: dict[str, bytes]

    @property
    def is_moved(self) -> bool:
        """Whether it is the file that it was, under another key."""
        return self.change.kind == RENAMED and not REPLACES & {*self.change.details}


class _Replay:
    """Does to a join of lower stores what the first store of one does to it."""

    def __init__(self, join: JoinedStore, onto: JoinedStore, changes: Sequence[Change], difference: Difference) -> None:
        self._join, self._onto, self._target = join, onto, onto.layers[0]
        self._steps = [self._step(change) for change in sorted(changes, key=Change.order)]
        self._directories = {directory: join.stat(directory) for directory in _touched(changes) if directory in difference.directories}
        self._can = self._target.capabilities
        self._aside: dict[str, str] = {}
        # Where each file that has several keys is, or is put first.
        self._linked = {number: keys[0] for number, keys in difference.shared.items()}
        self._linked.update({step.stat.linked_id: step.change.key for step in self._steps if step.is_moved and step.stat.linked_id is not None})
        self._links: list[tuple[str, str]] = []

    def _step(self, change: Change) -> _Step:
        if change.kind == DELETED:
            return _Step(change, None, Stat(0), {}, {})
        found = self._join._merge.locate(change.key)
        return _Step(change, found, self._join.stat(change.key), self._join.get_metadata(change.key), self._join.get_xattrs(change.key))

    def run(self, name: str) -> None:
        """Do it, as one transaction if that can be; the root gets ``name`` as a note in it."""
        with Work(self._join, "committing", sum(step.stat.size for step in self._steps)) as work:
            if not self._can.transactions:
                self._copy_and_delete(work.advance)
                return
            with self._onto.transaction("commit"):
                self._put_aside(name)
                for step in self._steps:
                    with _told_of(step.change.key):
                        self._do(step)
                    work.advance(step.stat.size)
                self._link()
                self._give_times()
                if self._aside:
                    self._onto.delete(directory_key(_place(name)))
                if self._target.capabilities.metadata:
                    self._target.update_metadata(ROOT, {COMMITTED: name})

    def _put_aside(self, name: str) -> None:
        """Move what is renamed out of the way of everything; and data that a new file shares with one, where that can be lost."""
        moved = sorted((step for step in self._steps if step.change.kind == RENAMED), key=lambda step: -step.change.below.count("/", 0, -1))
        shared = [step for step in self._steps if step.change.kind == ADDED and step.found is not None and step.found.layer > 0]
        if moved or shared:
            self._onto.put(directory_key(_place(name)), Stat(0o040700))
        for number, step in enumerate([*shared, *moved]):
            place = f"{_place(name)}/{number}" + ("/" if step.stat.is_directory else "")
            if step.change.kind == RENAMED:
                self._onto.rename(step.change.below, place)
            else:
                self._put(step, place)
            self._aside[step.change.key] = place

    def _do(self, step: _Step) -> None:
        change = step.change
        if change.kind == DELETED:
            delete_tree(self._onto, change.key)
            return
        aside = self._aside.get(change.key)
        if aside is not None:
            self._onto.rename(aside, change.key)
        if (change.kind == ADDED and aside is None) or REPLACES & {*change.details}:
            self._put_linked(step)
        elif change.details:
            self._give_attributes(step)

    def _put_linked(self, step: _Step) -> None:
        """Put a file; or if it has another key that is there or was put, have it linked to that at the end."""
        key, number = step.change.key, step.stat.linked_id
        there = self._standing(key)
        if there is not None and not there.is_directory and there.file_id != step.stat.file_id:
            self._onto.delete(key)  # else other keys of what it was would change with it
        if number is None or not self._can.hard_links:
            self._put(step, key)
            return
        first = self._linked.setdefault(number, key)
        if first == key:
            self._put(step, key)
        else:
            self._links.append((first, key))

    def _standing(self, key: str) -> Stat | None:
        try:
            return self._onto.lookup(key.removesuffix("/"))
        except KeyError:
            return None

    def _link(self) -> None:
        """Link what has several keys, where they are not links of one file already."""
        for first, key in self._links:
            there, wanted = self._standing(key), self._onto.stat(first)
            if there is None or there.file_id != wanted.file_id:
                if there is not None:
                    self._onto.delete(key)
                self._onto.link(first, key)

    def _put(self, step: _Step, key: str) -> None:
        if step.stat.is_directory or step.found is None:
            self._onto.put(key, step.stat, None, step.metadata, step.xattrs)
            return
        with contextlib.closing(step.found.store.get(step.found.key)) as value:
            data = None if step.stat.is_special and not step.stat.is_symlink else whole(value, f"{step.found.key!r} in {step.found.store.name}")
            self._onto.put(key, step.stat, data, step.metadata, step.xattrs)

    def _give_attributes(self, step: _Step) -> None:
        """Give what is there other attributes, and not its data anew."""
        key, details = step.change.key, {*step.change.details}
        if self._can.attributes and details & {"mode", "owner", "times"}:  # first: a new owner takes capabilities away
            self._set_stat(key, step.stat)
        if "metadata" in details:
            self._onto.set_metadata(key, step.metadata)
        if "xattrs" in details and self._can.xattrs:
            there = self._onto.get_xattrs(key)
            for name in {*there, *step.xattrs}:
                if there.get(name) != step.xattrs.get(name):
                    self._onto.set_xattr(key, name, step.xattrs.get(name))

    def _set_stat(self, key: str, stat: Stat) -> None:
        there = self._onto.stat(key)
        wanted = {"uid": stat.uid, "gid": stat.gid, "mode": None if stat.is_symlink else stat.mode, "atime": stat.atime, "mtime": stat.mtime}
        self._onto.set_stat(key, **{name: value for name, value in wanted.items() if value is not None and value != getattr(there, name)})

    def _give_times(self) -> None:
        """Give directories in which something was changed the times that they have in the join."""
        if not self._can.attributes:
            return
        for directory, stat in self._directories.items():
            with contextlib.suppress(KeyError):
                self._onto.set_stat(directory, atime=stat.atime, mtime=stat.mtime)

    # ---------------------------------------------------------------- without transactions

    def _copy_and_delete(self, advance: Callable[[int], None]) -> None:
        late = []
        replaced = {step.change.key.removesuffix("/") for step in self._steps if step.change.kind != DELETED}
        for step in self._steps:
            if step.change.kind == DELETED and step.change.key.removesuffix("/") not in replaced:
                late.append(step.change.key)
            elif step.change.kind == DELETED:
                delete_tree(self._onto, step.change.key)
            elif step.change.kind == ATTRIBUTES:
                self._give_attributes(step)
            else:
                self._copy(step)
            advance(step.stat.size)
        late += [step.change.below for step in self._steps if step.change.kind == RENAMED and step.change.below not in replaced]
        for key in late:
            delete_tree(self._onto, key)
        self._link()
        self._give_times()

    def _copy(self, step: _Step) -> None:
        if step.stat.is_directory and step.change.kind == RENAMED:
            copy_tree(self._join, step.change.key, self._onto, step.change.key)
        else:
            self._put_linked(step)


def _check_separable(difference: Difference, changes: Sequence[Change]) -> None:
    """Raise ``UsageError`` if one of some changes cannot be committed without others that it may hang together with."""
    twice = {change.key.removesuffix("/") for change in changes}
    for change in changes:
        stats = [store.stat(key) for store, key in ((difference.join, change.key), (difference.below, change.below)) if store.exists(key)]
        reasons = {
            "was renamed": change.kind == RENAMED,
            "is in a directory that was renamed": change.old is not None and change.kind != RENAMED,
            "has, or had, further names": any(stat.linked_id is not None for stat in stats),
            "is of another kind now": len(twice) < len(changes) and sum(change.key.removesuffix("/") == other.key.removesuffix("/") for other in changes) > 1,
        }
        reason = next((text for text, holds in reasons.items() if holds), None)
        if reason is not None:
            raise UsageError(f"{change.key!r} {reason}: that can be committed only with everything else")


@contextlib.contextmanager
def _told_of(key: str) -> Iterator[None]:
    """Have an error say what it is about, if it does not."""
    try:
        yield
    except Unsupported as error:
        raise Unsupported(f"{key!r} cannot be committed: {error}") from error
    except OSError as error:
        if error.filename is None or not isinstance(error.filename, str):
            error.filename = key
        raise


def _touched(changes: Sequence[Change]) -> set[str]:
    """The directories in which something is changed, or that are."""
    touched = {ROOT} if changes else set()
    for change in changes:
        touched.update(ancestors(change.key))
        touched.add(change.key if is_directory_key(change.key) else split(change.key)[0])
    return touched


def _place(name: str) -> str:
    return f".joinfs-commit-{name}"
