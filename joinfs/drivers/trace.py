"""A record of requests and answers, for reports of faults: ``joinfs mount --trace FILE``.

A line for each request, written when it is answered: when that was, which process asked for it, the verb, the node's
path and the other arguments, then the answer or the error, and how long it took. Names of files are in it; what is
in files, and the values of extended attributes, is not.
"""

import contextlib
import errno
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from joinfs.config import MountOptions
from joinfs.errors import UsageError
from joinfs.filesystem.operations import Operations
from joinfs.version import VERSION

log = logging.getLogger(__name__)

# Longer names and targets are cut.
_LONGEST = 200


class Trace:
    """A file that requests are recorded in; what was in it before stays.

    Args:
        path: The file; made for its owner alone if it is not there.
        path_of: Answers the path of a node by its number, or None if there is none.

    Raises:
        UsageError: It cannot be written.
    """

    def __init__(self, path: str, path_of: Callable[[int], str | None]) -> None:
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"the trace {path} cannot be written: {error.strerror}") from None
        self._path, self._path_of = path, path_of
        self._has_gaps = False

    def begin(self, driver: str, options: MountOptions) -> None:
        """Say what is traced: the versions of all that takes part, and how it is mounted.

        Raises:
            UsageError: It cannot be written.
        """
        machine = f"Linux {os.uname().release}, Python {platform.python_version()}" if sys.platform == "linux" else platform.platform()
        how = replace(options, upperdir=None, lowerdirs=())  # URLs may have passwords
        try:
            self._write(f"joinfs {VERSION}, {driver}, {machine}, {how}")
        except OSError as error:
            raise UsageError(f"the trace {self._path} cannot be written: {error.strerror}") from None

    def place(self, node: int) -> str:
        """How a node is called in a line: before it is asked for anything, as it may have no name afterwards."""
        path = self._path_of(node)
        return f"#{node}" if path is None else f"/{path}"

    def add(self, verb: str, place: str, arguments: tuple[Any, ...], pid: int, outcome: int | bytes | None, nanoseconds: int) -> None:
        """Record one request.

        Args:
            verb: What was asked for.
            place: Of what: its path, or what ``place`` answered.
            arguments: The other arguments.
            pid: The process that asked; 0 for the kernel itself.
            outcome: The error's number, or the answer.
            nanoseconds: How long it took.
        """
        asked = " ".join([verb, *map(_shown, (place, *arguments))])
        try:
            self._write(f"{pid} {asked} = {_answer(outcome)} ({nanoseconds / 1e3:.0f} us)")
        except OSError as error:  # who asked for something is to get it all the same
            if not self._has_gaps:
                log.warning("the trace has gaps: %s", error.strerror)
            self._has_gaps = True

    def _write(self, line: str) -> None:
        moment = time.time_ns()
        clock = time.strftime("%H:%M:%S", time.localtime(moment // 10**9))
        os.write(self._file, f"{clock}.{moment // 1000 % 10**6:06} {line}\n".encode(errors="backslashreplace"))

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


@contextlib.contextmanager
def tracing(operations: Operations, options: MountOptions, driver: str) -> Iterator[Trace | None]:
    """The trace of a mount, while it is served; None if it is to have none.

    Raises:
        UsageError: Its file cannot be written.
    """
    if options.trace is None:
        yield None
        return
    trace = Trace(options.trace, operations.path_of)
    with contextlib.closing(trace):
        trace.begin(driver, options)
        yield trace


def _shown(argument: object) -> str:
    if isinstance(argument, bytes | bytearray | memoryview):
        return f"<{len(argument)} bytes>"
    if not isinstance(argument, str):
        return str(argument)
    text = argument if len(argument) <= _LONGEST else argument[:_LONGEST] + "..."
    return ascii(text) if not text.isprintable() or " " in text or not text else text


def _answer(outcome: int | bytes | None) -> str:
    if isinstance(outcome, int):
        return errno.errorcode.get(outcome, str(outcome))
    return f"ok, {len(outcome)} bytes" if outcome else "ok"
