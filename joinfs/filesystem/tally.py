"""What was asked for, counted: requests, time and bytes by verb."""

import threading
from typing import NamedTuple


class Row(NamedTuple):
    """The requests of one verb.

    Attributes:
        requests: How many there were.
        seconds: How long answering them took, all together.
        received, sent: Bytes that went either way, where the driver sees them.
    """

    requests: int
    seconds: float
    received: int
    sent: int


class Tally:
    """Counts of requests. Counting one takes about a microsecond, so it is always done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, list[int]] = {}

    def add(self, verb: str, nanoseconds: int, received: int = 0, sent: int = 0) -> None:
        """Count one request, how long it took, and the bytes that went either way."""
        with self._lock:
            row = self._rows.get(verb)
            if row is None:
                row = self._rows[verb] = [0, 0, 0, 0]
            row[0] += 1
            row[1] += nanoseconds
            row[2] += received
            row[3] += sent

    def rows(self) -> dict[str, Row]:
        """Answer what was counted by now, what took longest first."""
        with self._lock:
            rows = {verb: Row(count, nanoseconds / 1e9, received, sent) for verb, (count, nanoseconds, received, sent) in self._rows.items()}
        return dict(sorted(rows.items(), key=lambda item: -item[1].seconds))

    def table(self) -> str:
        """Answer a table of that."""
        rows = self.rows()
        columns = zip(*rows.values(), strict=True)
        total = Row(*map(sum, columns)) if rows else Row(0, 0.0, 0, 0)
        head = f"{'request':20}{'count':>12}{'seconds':>12}{'us each':>12}{'MB in':>12}{'MB out':>12}"
        return "\n".join([head, *(_line(verb, row) for verb, row in rows.items()), _line("all", total)])


def _line(verb: str, row: Row) -> str:
    each = row.seconds * 1e6 / max(row.requests, 1)
    return f"{verb:20}{row.requests:12}{row.seconds:12.3f}{each:12.1f}{row.received / 1e6:12.2f}{row.sent / 1e6:12.2f}"
