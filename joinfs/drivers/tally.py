"""What the kernel asked for, counted: requests, time and bytes by verb, for ``joinfs mount --stats``."""

import threading


class Tally:
    """Counts of requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, list[int]] = {}

    def add(self, verb: str, nanoseconds: int, received: int, sent: int) -> None:
        """Count one request, how long it took, and the bytes that went either way."""
        with self._lock:
            row = self._rows.setdefault(verb, [0, 0, 0, 0])
            for column, amount in enumerate((1, nanoseconds, received, sent)):
                row[column] += amount

    def table(self) -> str:
        """Answer a table, what took longest first."""
        lines = [f"{'request':20}{'count':>12}{'seconds':>12}{'us each':>12}{'MB in':>12}{'MB out':>12}"]
        total = [0, 0, 0, 0]
        for verb, row in sorted(self._rows.items(), key=lambda item: -item[1][1]):
            lines.append(self._line(verb, row))
            total = [a + b for a, b in zip(total, row, strict=True)]
        return "\n".join([*lines, self._line("all", total)])

    def _line(self, verb: str, row: list[int]) -> str:
        count, nanoseconds, received, sent = row
        each = nanoseconds / 1e3 / max(count, 1)
        return f"{verb:20}{count:12}{nanoseconds / 1e9:12.3f}{each:12.1f}{received / 1e6:12.2f}{sent / 1e6:12.2f}"
