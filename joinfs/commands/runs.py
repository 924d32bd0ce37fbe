"""The command that runs another one in a copy-on-write view."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from joinfs.commands import Command, Misuse
from joinfs.commands.changes import line_of, say_conflicts
from joinfs.commands.output import counted, progress, say
from joinfs.control.requests import told_change
from joinfs.errors import Conflict, JoinfsError
from joinfs.joined.commit import commit
from joinfs.joined.difference import Change, Difference
from joinfs.joined.patch import patch
from joinfs.mountpoint import locked
from joinfs.running import Ran, kept, run

# So many changes are listed.
MOST_LISTED = 20
RUN_EXAMPLE = """\
Runs COMMAND in a view of the stores (the current directory unless others are given) that it alone sees, in place of the
current directory. What it writes goes elsewhere: nothing of yours is changed before you say so. At the end you are asked
what becomes of it, unless an option says so; where there is no terminal, it is kept. The exit code is the command's.

It is a view and not a prison: what COMMAND writes outside of it is written.

example:
  joinfs run -- make install DESTDIR=$PWD/out
  joinfs run --commit -- ./upgrade.sh
  joinfs run --keep changes.db ~/data archive.zip -- python clean.py
"""


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stores", metavar="STORE", nargs="*", help="what the view shows; the current directory unless given")
    parser.add_argument("--at", metavar="DIR", default=".", help="where the command sees the view; the current directory unless given")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--discard", action="store_true", help="throw the changes away at the end")
    what.add_argument("--commit", action="store_true", help="do them to the first of the stores at the end")
    what.add_argument("--keep", metavar="STORE", help="have them in a directory, or an SQLite file (NAME.db), and go on with those that are there")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of what was changed")


def _run(given: argparse.Namespace) -> int:
    if not given.rest:
        raise Misuse("say which command to run, after '--'")
    with run(given.rest, given.stores or ["."], keep=given.keep, place=given.at) as ran:
        if ran.remark:
            say(ran.remark)
        if not ran.changes:
            return ran.code
        if not given.quiet:
            _show(ran.changes)
        if given.discard:
            return ran.code
        if given.commit:
            if _committed(ran, given.quiet):
                return ran.code
            _keep(ran, given.stores or ["."])
            return ran.code or 1
        if given.keep is None:
            return _settled(ran, given.stores or ["."], given.quiet)
        if not given.quiet:
            say(f"kept in {given.keep}")
        return ran.code


def _show(changes: Sequence[Change]) -> None:
    for change in changes[:MOST_LISTED]:
        print(line_of(told_change(change)), file=sys.stderr)
    if len(changes) > MOST_LISTED:
        say(f"and {counted(len(changes) - MOST_LISTED, 'more change')}")


def _settled(ran: Ran, stores: Sequence[str], quiet: bool) -> int:
    """Ask what becomes of the changes; where nobody can be asked, or who is asked interrupts it, they are kept."""
    try:
        is_settled = _is_settled(ran, quiet)
    except KeyboardInterrupt:  # at the question, or while something was printed or committed, which then was not
        sys.stderr.write("\n")
        is_settled = False
    if not is_settled:
        _keep(ran, stores)
    return ran.code


def _is_settled(ran: Ran, quiet: bool) -> bool:
    """Ask, and do what is answered; False if they are to be kept."""
    while sys.stdin.isatty() and sys.stderr.isatty():
        sys.stderr.write("joinfs: [k]eep, [c]ommit, [d]iscard, or show the [p]atch? ")
        sys.stderr.flush()
        answer = sys.stdin.readline().strip().lower()
        if answer in {"d", "discard"} or (answer in {"c", "commit"} and _committed(ran, quiet)):
            return True
        if answer in {"p", "patch"}:
            _print_patch(ran)
        if answer in {"k", "keep", ""}:
            break
    return False


def _keep(ran: Ran, stores: Sequence[str]) -> None:
    """Have the changes stay when the view goes."""
    ran.join.layers[0].sync()
    place = kept(ran.upper)
    say(f"kept in {place}; see: joinfs diff {shlex.join([place, *(os.path.abspath(store) if os.path.lexists(store) else store for store in stores)])}")


def _committed(ran: Ran, quiet: bool) -> bool:
    """Commit the changes; False, with a sentence on why, if that cannot be."""
    try:
        with progress(quiet), locked(ran.join.layers[1]):
            commit(ran.join)
    except Conflict as conflict:
        say_conflicts(conflict)
    except (JoinfsError, OSError) as error:
        say(f"not committed: {error}")
    else:
        if not quiet:
            say("committed")
        return True
    return False


def _print_patch(ran: Ran) -> None:
    for piece in patch(Difference(ran.join)):
        sys.stderr.write(piece)


COMMANDS = {"run": Command(_run_arguments, _run, RUN_EXAMPLE, takes_rest=True)}
