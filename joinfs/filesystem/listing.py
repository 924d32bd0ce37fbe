"""Listings: the entries of a directory in an order that holds while entries come and go."""

from collections.abc import Iterable, Iterator

from joinfs.stores import Stat

# Positions 1 and 2 are those after "." and "..".
DOTS = 2
# A listing may have so many empty places, and as many as it has names.
SPARE = 1000


class Listing:
    """What a directory was listed as, in the store's order: files that lie together are then read together.

    A position is a place in this listing, whatever has come or gone since it was made; and in the next one, which
    others who begin to read have made while somebody is still reading on.

    Args:
        entries: Names with their attributes.
        until: As the attribute.
        before: The listing before, if there is one. What was listed there keeps its place, if not too many places are empty.

    Attributes:
        until: Monotonic seconds; so long the attributes are believed by who looks a name up.
        stats: The attributes of each name that is there still; None where they are to be asked for again.
    """

    __slots__ = ("_names", "stats", "until")

    def __init__(self, entries: Iterable[tuple[str, Stat]], until: float, before: "Listing | None" = None) -> None:
        self.until = until
        self.stats: dict[str, Stat | None] = dict(entries)
        self._names: tuple[str, ...] = tuple(self.stats)
        if before is not None and before._names != self._names and len(before) <= 2 * len(self) + SPARE:
            placed = set(before._names)
            self._names = (*before._names, *(name for name in self._names if name not in placed))

    def __len__(self) -> int:
        return len(self._names)

    def after(self, start: int) -> Iterator[tuple[int, str]]:
        """Yield the name of each entry after a position, as far as it is there still, and the position after it."""
        names, stats = self._names, self.stats
        for index in range(max(start - DOTS, 0), len(names)):
            if names[index] in stats:
                yield index + DOTS + 1, names[index]

    def disbelieve(self) -> None:
        """Have all attributes asked for again; who reads on in it is to get the rest of it nevertheless."""
        self.until = 0.0
        self.stats = dict.fromkeys(self.stats)
