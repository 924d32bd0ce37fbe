"""Commands that help at a shell: completion, and the manual page."""

import argparse
import shutil
import subprocess
import sys

from joinfs.commands import Command
from joinfs.commands.manual import page
from joinfs.commands.parsing import filled, parser
from joinfs.errors import UsageError

SHELLS = ("bash", "zsh", "fish", "tcsh")
COMPLETION_EXAMPLE = """\
It needs shtab: pip install 'joinfs[completion]'.

example:
  joinfs completion bash > ~/.local/share/bash-completion/completions/joinfs
  joinfs completion zsh > "${fpath[1]}/_joinfs"
  joinfs completion fish > ~/.config/fish/completions/joinfs.fish
"""
MANUAL_EXAMPLE = """\
On a terminal man(1) shows it; elsewhere it is printed as man(1) reads it. Where pip has installed joinfs, man finds it by its name.

example:
  joinfs manual
  joinfs manual > /usr/local/share/man/man1/joinfs.1
"""
# What arguments are files or directories, by how --help calls them.
_FILES = {"STORE", "FILE", "F", "SOURCE", "STORE|MOUNTPOINT", "STORE ... MOUNTPOINT"}
_DIRECTORIES = {"MOUNTPOINT", "DIR"}


def _completion_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def _completion(given: argparse.Namespace) -> int:
    try:
        import shtab  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError("joinfs completion needs shtab; install it with: pip install 'joinfs[completion]'") from None
    top = parser()
    for action in (action for one in (top, *filled(top).values()) for action in one._actions):
        if action.dest == "command":
            action.help = None  # --help lists them by itself; what it is not to show, shtab leaves out
        if action.metavar in _FILES | _DIRECTORIES:
            action.complete = shtab.FILE if action.metavar in _FILES else shtab.DIRECTORY  # type: ignore[attr-defined]
    print(shtab.complete(top, given.shell))
    return 0


def _no_arguments(_: argparse.ArgumentParser) -> None:
    pass


def _manual(_: argparse.Namespace) -> int:
    text = page()
    if sys.stdout.isatty() and shutil.which("man"):
        return subprocess.run(["man", "-l", "-"], input=text, text=True, check=False).returncode
    print(text, end="")
    return 0


COMMANDS = {
    "completion": Command(_completion_arguments, _completion, COMPLETION_EXAMPLE),
    "manual": Command(_no_arguments, _manual, MANUAL_EXAMPLE),
}
