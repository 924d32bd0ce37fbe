"""The commands of ``joinfs``, by what they are for. Each is a ``Command``: its arguments, an example, and what it does.

A module is imported when one of its commands is used; ``cli`` has the list.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from joinfs.errors import UsageError


class Command(NamedTuple):
    """One command.

    Attributes:
        arguments: Adds its arguments to a parser.
        run: Does it, and answers the exit code.
        example: What ``--help`` shows at its end.
        takes_rest: Whether anything may follow a ``--``, which is ``given.rest`` then.
    """

    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    example: str
    takes_rest: bool = False


class Misuse(UsageError):
    """A command was not asked for properly; it exits with 2."""


@contextlib.contextmanager
def reading_arguments() -> Iterator[None]:
    """While what was asked for is being understood: what is wrong with it is a misuse of the command."""
    try:
        yield
    except UsageError as error:
        raise Misuse(str(error)) from None
