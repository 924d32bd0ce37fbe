"""Listings: the entries of a directory in an order that holds while entries come and go."""

import bisect
from collections.abc import Iterable, Iterator

from joinfs.stores import Stat

# Positions 1 and 2 are those after "." and "..".
DOTS = 2
_POSITIONS = (1 << 62) - 1


def position(name: str) -> int:
    """Where a name stands in every listing of this process: greater than ``DOTS``, and below 2**63.

    It is made of the name alone. So who goes on from a position finds what comes after it, whatever has
    come or gone since, also in a listing that was made anew.
    """
    return (hash(name) & _POSITIONS) + DOTS + 1


class Listing:
    """What a directory was listed as.

    Args:
        entries: Names with their attributes.
        until: As the attribute.

    Attributes:
        until: Monotonic seconds; so long the attributes are believed by who looks a name up.
        stats: The attributes of each name that is there still; None where they are to be asked for again.
    """

    __slots__ = ("_order", "stats", "until")

    def __init__(self, entries: Iterable[tuple[str, Stat]], until: float) -> None:
        self.until = until
        self.stats: dict[str, Stat | None] = dict(entries)
        self._order = sorted([((hash(name) & _POSITIONS) + DOTS + 1, name) for name in self.stats])  # position(name), inlined

    def after(self, start: int) -> Iterator[tuple[int, str]]:
        """Yield the position and name of each entry after a position, as far as it is there still."""
        first = bisect.bisect_right(self._order, start, key=lambda entry: entry[0]) if start > DOTS else 0
        for index in range(first, len(self._order)):
            if self._order[index][1] in self.stats:
                yield self._order[index]

    def ends_at(self, last: int) -> bool:
        """Whether nothing comes after a position."""
        return not self._order or last >= self._order[-1][0]
