"""What a mount has in ``.joinfs/``, for as long as it is there: its figures, its log, and a file that takes orders."""

import collections
import contextlib
import logging
import queue
import shlex
import threading
import time
from collections.abc import Iterator
from typing import Any

from joinfs.control.annex import Annex, Text
from joinfs.control.metrics import prometheus
from joinfs.control.requests import Subject, ask
from joinfs.errors import JoinfsError, UsageError

# So many lines of the log are kept, and what became of so many orders.
MOST_LINES, MOST_ORDERS = 1000, 20
# What can be written to ctl, and how it is asked for: the name of the request, and the argument that the words after it are.
ORDERS = {
    "flush": ("flush", None),
    "commit": ("commit", "paths"),
    "discard": ("discard", "paths"),
    "snapshot": ("snapshot", "upper"),
    "add": ("add_layer", "store"),
    "remove": ("remove_layer", "layer"),
}


@contextlib.contextmanager
def annexed(subject: Subject) -> Iterator[None]:
    """Have ``.joinfs/`` in a mount for the length of a ``with`` block."""
    log, orders = _Log(), _Orders(subject)
    texts = {"stats": Text(lambda: _stats(subject)), "log": Text(log.text, 0o400), "ctl": Text(orders.text, 0o600, orders.take)}
    logging.getLogger("joinfs").addHandler(log)
    subject.join.annex = Annex(subject.join, texts)
    try:
        yield
    finally:
        subject.join.annex = None
        orders.close()
        logging.getLogger("joinfs").removeHandler(log)


def _stats(subject: Subject) -> str:
    (status,) = ask(subject, "status", {})
    return prometheus(status)


class _Log(logging.Handler):
    """The last lines of the log."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: collections.deque[str] = collections.deque(maxlen=MOST_LINES)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))

    def text(self) -> str:
        """The lines."""
        return "".join(f"{line}\n" for line in list(self._lines))


class _Orders:
    """What was written to ``ctl``: done in a thread, as who writes there may hold what it needs; reading tells what became of it."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._waiting: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()
        self._told: collections.deque[str] = collections.deque(maxlen=MOST_ORDERS)
        self._thread: threading.Thread | None = None

    def take(self, text: str) -> None:
        """Take orders, one a line; of what is none, reading tells."""
        for line in text.splitlines():
            try:
                words = _understood(line) if line.strip() else None
            except UsageError as error:
                self._tell(line, str(error))
                continue
            if words is not None:
                self._waiting.put(words)
        if not self._waiting.empty() and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="joinfs does as ctl says", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (words := self._waiting.get()) is not None:
            name, argument = ORDERS[words[0]]
            rest: Any = words[1:] if argument == "paths" else " ".join(words[1:]) or None
            try:
                count = sum(1 for _ in ask(self._subject, name, {} if argument is None else {argument: rest}))
                told = f"done, {count} answered" if count else "done"
            except (JoinfsError, KeyError, OSError) as error:
                told = f"not done: {error}"
            self._tell(shlex.join(words), told)

    def _tell(self, order: str, told: str) -> None:
        self._told.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {order}: {told}")

    def text(self) -> str:
        """What became of the last orders; before there are any, what there can be."""
        if not self._told:
            return "".join(f"{name}{' ' + argument.upper() if argument else ''}\n" for name, (_, argument) in ORDERS.items())
        return "".join(f"{line}\n" for line in list(self._told))

    def close(self) -> None:
        """Wait for the order that is being carried out; take no more."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()


def _understood(line: str) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"that is no order: {error}") from None
    if not words or words[0] not in ORDERS:
        raise UsageError(f"that is no order; there are {', '.join(ORDERS)}")
    return words
