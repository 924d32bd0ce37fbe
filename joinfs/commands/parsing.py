"""The table of the commands, and the parser of their arguments."""

import argparse
import importlib
from typing import Any

from joinfs.commands import Command
from joinfs.version import VERSION

# The commands, by what they are for: the module of each, and what --help says.
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "mounting": {
        "mount": ("mounts", "mount stores, joined"),
        "umount": ("mounts", "unmount, and wait until all is committed and sent"),
        "run": ("runs", "run a command in a copy-on-write view, and keep what it changed or not"),
        "status": ("serving", "what mounts are doing"),
        "layers": ("serving", "what it is joined of; add stores to a mount, or take some out"),
        "snapshot": ("serving", "let the first store be as it is, and go on with a new one"),
        "flush": ("serving", "put what is staged into the first store, and send what waits there to be sent"),
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
        "completion": ("shell", "what a shell completes joinfs's arguments with"),
        "manual": ("shell", "the manual page"),
        "install-helper": ("system", "have mount -t joinfs, /etc/fstab and systemd mount it"),
        "mount-helper": ("system", "what mount -t joinfs calls"),
    },
}
MODULES = {name: module for group in GROUPS.values() for name, (module, _) in group.items()}


class CommandParser(argparse.ArgumentParser):
    """A parser that imports its command when it is used."""

    command: Command | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.filled()
        return super().parse_known_args(args, namespace)

    def filled(self) -> "CommandParser":
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
    top.add_argument("--version", action="version", version=f"joinfs {VERSION}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS, parser_class=CommandParser)
    for group in GROUPS.values():
        for name, (_, sentence) in group.items():
            commands.add_parser(name, help=sentence, description=f"{sentence[0].upper()}{sentence[1:]}.", formatter_class=form)
    return top


def filled(top: argparse.ArgumentParser) -> dict[str, CommandParser]:
    """Answer the parser of each command by its name, of what ``parser`` answered, with its arguments."""
    (commands,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return {name: one.filled() for name, one in commands.choices.items()}


def _listed() -> str:
    """The commands, by what they are for."""
    lines = []
    for group, commands in GROUPS.items():
        lines += [f"{group}:", *(f"  {name:<14} {sentence}" for name, (_, sentence) in commands.items()), ""]
    return "\n".join([*lines, "joinfs COMMAND --help says more of each, with an example"])
