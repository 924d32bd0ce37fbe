"""Hard links of lower stores: what has several keys there stays one file when it is changed.

Its first change copies it up once, as ``.wh..wh.links/NUMBER`` in the first store, and each key through which it is
changed is from then on a further link of that copy. The other keys are where they were, in the lower store, and
show the copy; they are counted in its metadata, as the links that it has there are not all that it has in the join.
A key that is deleted before there is a copy leaves a record in its place, which counts. A layer that was a first store
once has such copies still.

In the metadata of the copy, or of the record, stand

- ``joinfs.links``: how many keys the lower store has that are not links of the copy, and not hidden.
- ``joinfs.source``: the size and time of the file when that began. Another file may have its number by now.
- ``joinfs.record``: there is no copy.
- ``joinfs.place``: of a copy, what it was made from: how many layers there were from that one down, ``/``, and the key.
"""

import re
import time
from collections.abc import Iterator
from typing import NamedTuple

from joinfs.joined.whiteout import BOOKKEEPING, ORIGIN
from joinfs.stores import Stat, Store
from joinfs.stores.keys import ROOT
from joinfs.stores.metadata import RESERVED
from joinfs.stores.value import Metadata, new_stat

DIRECTORY = BOOKKEEPING + "links/"
LINKS = RESERVED + "links"
SOURCE = RESERVED + "source"
RECORD = RESERVED + "record"
PLACE = RESERVED + "place"
_NUMBER = re.compile(r"[0-9a-f]{1,16}")
_APART = 0x5DEECE66D1CE4E5B
# No host has files with more.
MOST_LINKS = 1 << 30
_DIRECTORY_MODE, _RECORD_MODE = 0o040700, 0o100600


class Copy(NamedTuple):
    """The copy of a file that has several keys, in the first store, or a record that there is none.

    Attributes:
        key: Where it is.
        stat: Its attributes; the link count is that of the first store.
        left: How many keys the lower store has that are not links of it, and not hidden.
        is_record: Whether it has nothing but that.
        is_of_another: Whether the file below has been changed by others since, or is another that got the number: then it tells nothing
            of that, and the keys that are links of it have nothing to do with it any more.
    """

    key: str
    stat: Stat
    left: int = 0
    is_record: bool = False
    is_of_another: bool = False


class Links:
    """The copies in a layer of files that have several keys in a lower one.

    Args:
        store: The layer; where copies are made, the first store.
        makes_copies: Whether it is to get any.
        ttl: For so many seconds it is believed that there are none.

    Attributes:
        store: The layer.
    """

    def __init__(self, store: Store, makes_copies: bool, ttl: float) -> None:
        self.store = store
        self._makes_copies = makes_copies
        self._ttl = ttl
        self._any = False
        self._until = 0.0
        self._changes = -1

    def forget(self) -> None:
        """Look again whether there are any."""
        self._any = False
        self._until = 0.0

    def any(self) -> bool:
        """Whether there are any: in a store that others write to, as it was when that was last looked for."""
        changes = 0 if self._makes_copies else self.store.changes
        if not self._any and (self._until <= time.monotonic() or changes != self._changes):
            self._changes = changes
            self._any = self.store.capabilities.hard_links and self.store.exists(DIRECTORY)
            self._until = time.monotonic() + self._ttl
        return self._any

    def stays_one(self, mode: int) -> bool:
        """Whether a file of that kind stays one when it is changed; the first store may have no links, or no metadata for it."""
        can = self.store.capabilities
        return self._makes_copies and can.marks and can.hard_links and (can.metadata_on_all if mode & 0o170000 != 0o100000 else can.metadata)

    def find(self, number: int, source: Stat) -> Copy | None:
        """Answer the copy, or record, of the file that has a number in the join.

        Args:
            number: The number.
            source: The attributes of the file below.
        """
        if not self.any():
            return None
        key = _key(number)
        try:
            stat = self.store.lookup(key)
            metadata = self.store.get_metadata(key, (LINKS, SOURCE, RECORD))
        except KeyError:
            return None
        left = _left(metadata)
        if left is None or metadata.get(SOURCE) != _source(source):
            return Copy(key, stat, is_of_another=True)
        return Copy(key, stat, left, bool(metadata.get(RECORD)))

    # ---------------------------------------------------------------- writing

    def key_to_copy(self, number: int) -> str:
        """Answer where a copy goes; what it goes into is there then."""
        if not self.store.exists(DIRECTORY):  # whatever is believed: a transaction may have been undone
            root = self.store.stat(ROOT)
            self.store.put(DIRECTORY, new_stat(_DIRECTORY_MODE, *self.store._default_owner()))
            self.store.set_stat(ROOT, atime=root.atime, mtime=root.mtime)
        self._any = True
        return _key(number)

    def marks(self, number: int, source: Stat, place: str, record: Copy | None) -> Metadata:
        """The metadata of a copy that nothing is linked to yet, in place of a record if there is one."""
        left = source.nlink if record is None else record.left
        return {ORIGIN: str(number), LINKS: left, SOURCE: _source(source), PLACE: place}

    def count_down(self, number: int, source: Stat) -> None:
        """A key of the lower store is a link of the copy now, or hidden."""
        found = self.find(number, source)
        if found is not None and found.is_of_another:
            return  # it was made to be so since the file was looked for: its links are not to be written to
        if found is not None:
            self.store.update_metadata(found.key, {LINKS: max(found.left - 1, 0)})
            self.tidy(number)
        else:
            marks = {LINKS: source.nlink - 1, SOURCE: _source(source), RECORD: True}
            stat = new_stat(_RECORD_MODE, *self.store._default_owner())
            self.store.put(self.key_to_copy(number), stat, None, marks)

    def tidy(self, number: int) -> None:
        """A file has lost a link: if nothing shows its copy any more, that goes too."""
        key = _key(number)
        try:
            stat = self.store.lookup(key)
            left = _left(self.store.get_metadata(key, (LINKS,)))
        except KeyError:
            return
        if stat.nlink == 1 and left == 0:
            self.store.delete(key)

    def places(self) -> Iterator[tuple[int, str]]:
        """Yield the number of each copy that keys below show, and what it was made from."""
        names = [name for name, _ in self.store.list(DIRECTORY)] if self.any() and self.store.exists(DIRECTORY) else []
        for name in names:
            metadata = {} if _NUMBER.fullmatch(name) is None else self.store.get_metadata(DIRECTORY + name, (LINKS, PLACE))
            if _left(metadata) and PLACE in metadata:
                yield int(name, 16), str(metadata[PLACE])


def number_apart(number: int) -> int:
    """The number of a file of which a copy that tells nothing of it has the number."""
    return number ^ _APART


def links_shown(stat: Stat, metadata: Metadata) -> int:
    """How many links a file of the first store has in the join, whose marks these are."""
    left = _left(metadata)
    return stat.nlink if left is None or stat.nlink < 2 else stat.nlink - 1 + left


def _left(metadata: Metadata) -> int | None:
    """How many keys are left below, as far as the mark makes sense."""
    left = metadata.get(LINKS)
    return left if isinstance(left, int) and 0 <= left < MOST_LINKS else None


def _key(number: int) -> str:
    return f"{DIRECTORY}{number:x}"


def _source(stat: Stat) -> str:
    return f"{stat.size} {stat.mtime}"
