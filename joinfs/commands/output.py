"""What commands print: lines for people, in colours where that is a terminal; JSON for programs; and how far long work is."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36", "bold": "1", "dim": "2"}
# Seconds after which something is said to take long, and between lines where that is no terminal.
PATIENCE, BETWEEN_LINES = 0.5, 10.0
UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB")

Progress = Callable[[dict[str, Any]], object]


def print_json(answer: dict[str, Any]) -> None:
    """Print an answer as a line of JSON; bytes in names that are no text are escaped as JSON escapes lone surrogates."""
    print(json.dumps(answer))


def shown(text: str) -> str:
    """A name as it can be printed: what is not printable, or no text, is escaped."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def coloured(text: str, colour: str) -> str:
    """Text in a colour, if standard output is a terminal and nobody has asked for none. See https://no-color.org."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{COLOURS[colour]}m{text}\033[0m"


def amount(size: float) -> str:
    """A number of bytes, for people."""
    for unit in UNITS[:-1]:
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == UNITS[0] else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {UNITS[-1]}"


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number of things: ``1 file``, ``2 files``."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def say(text: str) -> None:
    """Tell something on standard error, as the command's own."""
    print(f"joinfs: {text}", file=sys.stderr)


@contextlib.contextmanager
def progress(quiet: bool = False) -> Iterator[Progress | None]:
    """Show how far long work is: a bar on a terminal, a line now and then elsewhere, nothing if it is not wanted.

    Yields:
        What to call with ``id``, ``message``, ``done`` and ``total``; see ``control.client.ask``.
    """
    if quiet:
        yield None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _Bar() as bar:
            yield bar.show
    else:
        yield _Lines().show


class _Bar:
    """A bar for each piece of work, once it takes long."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._shown: Any = None
        self._tasks: dict[int, Any] = {}

    def __enter__(self) -> Self:
        return self

    def show(self, told: dict[str, Any]) -> None:
        if self._shown is None and time.monotonic() - self._begun < PATIENCE:
            return
        if self._shown is None:
            self._shown = _rich_progress()
            self._shown.start()
        total = told["total"] if told["total"] > 0 else None
        task = self._tasks.get(told["id"])
        if task is None:
            task = self._tasks[told["id"]] = self._shown.add_task(told["message"], total=total)
        self._shown.update(task, completed=told["done"], total=total)

    def __exit__(self, *exc_info: object) -> None:
        if self._shown is not None:
            self._shown.stop()


def _rich_progress() -> Any:
    # Here, because importing it takes longer than most commands.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


class _Lines:
    """A line now and then."""

    def __init__(self) -> None:
        self._next = time.monotonic() + BETWEEN_LINES

    def show(self, told: dict[str, Any]) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + BETWEEN_LINES
        done, total = told["done"], told["total"]
        say(f"{told['message']}: {done:,} of {total:,}" if total > 0 else f"{told['message']}: {done:,}")
