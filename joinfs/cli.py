"""The command: arguments in; messages and exit codes out.

Exit codes: 0 done; 1 it could not be done, with one sentence on standard error; 2 it was not asked for
properly; 130 it was interrupted.
"""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from joinfs import __version__
from joinfs.commands import Command, Misuse
from joinfs.errors import JoinfsError

# The commands, by what they are for: the module of each, and what --help says.
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "mounting": {
        "mount": ("mounts", "mount stores, joined"),
        "umount": ("mounts", "unmount, and wait until all is committed"),
        "run": ("runs", "run a command in a copy-on-write view, and keep what it changed or not"),
        "status": ("serving", "what mounts are doing"),
        "layers": ("serving", "what it is joined of; add stores to a mount, or take some out"),
        "snapshot": ("serving", "let the first store be as it is, and go on with a new one"),
        "flush": ("serving", "put what is staged into the first store"),
    },
    "what is changed": {
        "diff": ("changes", "show what the first store changes"),
        "commit": ("changes", "do that to a store below it"),
        "discard": ("changes", "take it back"),
        "export": ("changes", "write it to an archive, as the layer of a container image"),
    },
    "what is there": {
        "which": ("keys", "where a path comes from, and what hides it elsewhere"),
        "query": ("keys", "look for files by their metadata"),
        "ls": ("keys", "list, without mounting"),
        "cat": ("keys", "print a file"),
        "get": ("keys", "copy out of a join"),
        "put": ("keys", "copy into a join"),
        "cp": ("keys", "copy within a join"),
        "rm": ("keys", "remove"),
    },
    "looking after it": {
        "check": ("keeping", "look for damage; nothing is changed"),
        "recover": ("keeping", "get what was being written when a server died"),
    },
    "this machine": {
        "doctor": ("machine", "what it can do, and how to get what it lacks"),
        "stores": ("machine", "the kinds of store that there are"),
        "install-helper": ("system", "have mount -t joinfs, /etc/fstab and systemd mount it"),
        "mount-helper": ("system", "what mount -t joinfs calls"),
    },
}
MODULES = {name: module for group in GROUPS.values() for name, (module, _) in group.items()}


class _CommandParser(argparse.ArgumentParser):
    """A parser that imports its command when it is used."""

    command: Command | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.filled()
        return super().parse_known_args(args, namespace)

    def filled(self) -> "_CommandParser":
        """The same with its arguments."""
        if self.command is None:
            name = self.prog.split()[-1]
            self.command = importlib.import_module(f"joinfs.commands.{MODULES[name]}").COMMANDS[name]
            self.command.arguments(self)
            self.epilog = self.command.example
            self.set_defaults(run=self.command.run, takes_rest=self.command.takes_rest)
        return self


def parser() -> argparse.ArgumentParser:
    """The command's arguments; those of each command are added when it is used."""
    form = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="joinfs", description="Join stores and mount the result as a directory.", epilog=_listed(), formatter_class=form)
    top.add_argument("--version", action="version", version=f"joinfs {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS, parser_class=_CommandParser)
    for group in GROUPS.values():
        for name, (_, sentence) in group.items():
            commands.add_parser(name, description=f"{sentence[0].upper()}{sentence[1:]}.", formatter_class=form)
    return top


def _listed() -> str:
    """The commands, by what they are for."""
    lines = []
    for group, commands in GROUPS.items():
        lines += [f"{group}:", *(f"  {name:<14} {sentence}" for name, (_, sentence) in commands.items()), ""]
    return "\n".join([*lines, "joinfs COMMAND --help says more of each, with an example"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and answer its exit code."""
    for stream in (sys.stdout, sys.stderr):  # names may have letters that the terminal's encoding has not
        stream.reconfigure(errors="backslashreplace") if isinstance(stream, io.TextIOWrapper) else None
    words, rest = _split(list(sys.argv[1:] if arguments is None else arguments))
    try:
        given = parser().parse_args(words)
        given.rest = rest
        if rest is not None and not given.takes_rest:
            raise Misuse(f"joinfs {given.command} takes nothing after '--'")
        code: int = given.run(given)
        sys.stdout.flush()
    except BrokenPipeError:  # who was reading has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Misuse as error:
        print(f"joinfs: {_sentence(error)}", file=sys.stderr)
        return 2
    except (JoinfsError, OSError, KeyError) as error:
        print(f"joinfs: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("joinfs: interrupted", file=sys.stderr)
        return 130
    return code


def _split(words: list[str]) -> tuple[list[str], list[str] | None]:
    """What stands before the first ``--``, and what after it."""
    if "--" not in words:
        return words, None
    place = words.index("--")
    return words[:place], words[place + 1 :]


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    if isinstance(error, KeyError) and not isinstance(error, JoinfsError):
        return f"{error.args[0] if error.args else ''!r} is not there"
    return " ".join(str(error).split())
