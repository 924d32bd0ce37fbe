"""Commands on what the first store changes: shown, committed, discarded, exported."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from joinfs.commands import Command, Misuse
from joinfs.commands.joins import add_join, chosen
from joinfs.commands.output import amount, coloured, counted, print_json, progress, say, shown
from joinfs.errors import Conflict, UsageError
from joinfs.joined.layer_export import FORMATS

LETTERS = {"added": ("A", "green"), "modified": ("M", "yellow"), "deleted": ("D", "red"), "renamed": ("R", "cyan"), "attributes": ("m", "yellow")}
DIFF_EXAMPLE = """\
A is added, M modified (the data), m attributes or metadata, D deleted, R renamed. With --json there is a line for each
change: kind, key, size and old_size in bytes, old (the key below) and details where there are some.

example:
  joinfs diff sqlite:changes.db ~/data
  joinfs diff /mnt/data/src --patch | git -C ~/data apply
"""
COMMIT_EXAMPLE = """\
What was changed below as well is a conflict, and then nothing is committed. Where the lower store has transactions
(directories, SQLite, memory), it gets all of it or nothing.

example:
  joinfs commit sqlite:changes.db ~/data
  joinfs commit /mnt/data/src /mnt/data/Makefile
"""
DISCARD_EXAMPLE = """\
example:
  joinfs discard /mnt/data/src/main.c
  joinfs discard sqlite:changes.db ~/data -- src
  joinfs discard /mnt/data --all
"""
EXPORT_EXAMPLE = """\
A tar archive has whiteouts as the layers of container images do, so that it is one.

example:
  joinfs export sqlite:changes.db ~/rootfs --output layer.tar
  joinfs export /mnt/data --all --output everything.zip
"""


def _add_paths(parser: argparse.ArgumentParser) -> None:
    add_join(parser)
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each change")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of how far it is")


def _diff_arguments(parser: argparse.ArgumentParser) -> None:
    _add_paths(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--stat", action="store_true", help="print sizes, and how many changes there are")
    how.add_argument("--patch", "-p", action="store_true", help="print a patch, as git does")
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 if there are changes")


def _diff(given: argparse.Namespace) -> int:
    join = chosen(given)
    count = 0
    with progress(given.quiet) as told:
        if given.patch and not given.json:
            for piece in join.ask("patch", {"paths": join.keys}, progress=told):
                count += 1
                _print_patch(str(piece["text"]))
        else:
            count = _print_changes(join.ask("diff", {"paths": join.keys}, progress=told), given.json, given.stat)
    return 1 if count and given.exit_code else 0


def _print_patch(text: str) -> None:
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in text.splitlines(keepends=True):
        colour = "bold" if line.startswith(("diff ", "+++", "---")) else colours.get(line[0])
        sys.stdout.write(line if colour is None else coloured(line.rstrip("\n"), colour) + "\n" * line.endswith("\n"))


def _print_changes(changes: Iterable[dict[str, Any]], as_json: bool, stat: bool = False) -> int:
    counts: dict[str, int] = {}
    for change in changes:
        counts[change["kind"]] = counts.get(change["kind"], 0) + 1
        if as_json:
            print_json(change)
        else:
            print(line_of(change, stat))
    if stat and not as_json:
        print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "nothing changed")
    return sum(counts.values())


def line_of(change: dict[str, Any], stat: bool = False) -> str:
    """A change as it is printed."""
    letter, colour = LETTERS[change["kind"]]
    name = shown(change["key"] or "/")
    if change["kind"] == "renamed":
        name = f"{shown(change['old'])} -> {name}"
    details = change.get("details", ())
    more = f"  ({', '.join(details)})" if details and change["kind"] in {"attributes", "renamed"} else ""
    if stat and not change["key"].endswith("/"):
        more = f"  {_sizes(change)}{more}"
    return f"{coloured(letter, colour)}  {name}{more}"


def _sizes(change: dict[str, Any]) -> str:
    if change["kind"] == "added":
        return f"+{amount(change['size'])}"
    if change["kind"] == "deleted":
        return f"-{amount(change['old_size'])}"
    return f"{amount(change['old_size'])} -> {amount(change['size'])}" if change["size"] != change["old_size"] else amount(change["size"])


def _commit_arguments(parser: argparse.ArgumentParser) -> None:
    _add_paths(parser)
    parser.add_argument("--into", metavar="STORE", help="its number, from 1, or its name; the second store unless given")
    parser.add_argument("--force", action="store_true", help="do it also where the lower store was changed meanwhile")
    parser.add_argument("--dry-run", "-n", action="store_true", help="say what would be committed, and look for conflicts")


def _commit(given: argparse.Namespace) -> int:
    join = chosen(given)
    arguments = {"paths": join.keys, "into": given.into, "force": given.force, "dry_run": given.dry_run}
    try:
        with progress(given.quiet) as told:
            changes = list(join.ask("commit", arguments, progress=told, writes=True))
    except Conflict as conflict:
        say_conflicts(conflict)
        raise Conflict(f"nothing was committed because of {counted(len(conflict.reasons), 'conflict')}; --force takes what is here") from None
    _print_changes(changes, given.json)
    _say_done(given, len(changes), "committed")
    return 0


def say_conflicts(conflict: Conflict) -> None:
    """Tell each key that is in conflict, and why."""
    for key, reason in conflict.reasons.items():
        say(f"{shown(key)} {reason}")


def _discard_arguments(parser: argparse.ArgumentParser) -> None:
    _add_paths(parser)
    parser.add_argument("--all", action="store_true", help="discard everything, if no paths are given")
    parser.add_argument("--dry-run", "-n", action="store_true", help="say what would be discarded")


def _discard(given: argparse.Namespace) -> int:
    join = chosen(given)
    if not join.keys and not given.all:
        raise Misuse("say which paths to discard, or --all")
    if join.keys and given.all:
        raise Misuse("give paths or --all, not both")
    changes = list(join.ask("discard", {"paths": join.keys, "dry_run": given.dry_run}, writes=True))
    if join.keys and not changes:
        raise UsageError(f"nothing is changed at {', '.join(shown(key) for key in join.keys)}")
    _print_changes(changes, given.json)
    _say_done(given, len(changes), "discarded")
    return 0


def _say_done(given: argparse.Namespace, count: int, done: str) -> None:
    if not given.quiet:
        say(f"{counted(count, 'change')} {'would be ' if given.dry_run else ''}{done}")


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    add_join(parser)
    parser.add_argument("--output", "-o", metavar="FILE", required=True, help="the archive; - is standard output")
    parser.add_argument("--format", choices=FORMATS, help="what kind; by the name of the file unless given")
    parser.add_argument("--all", action="store_true", help="all that is in the join, not only what the first store changes")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of how far it is")


def _export(given: argparse.Namespace) -> int:
    join = chosen(given)
    if join.keys:
        raise Misuse("changes are exported as a whole; give no paths")
    form = given.format or _form_of(given.output)
    with _replaced(given.output) as file, progress(given.quiet) as told:
        left_out = list(join.ask("export", {"form": form, "everything": given.all}, file, told))
    for answer in left_out:
        say(f"left out, as a {form} archive cannot have it: {shown(answer['left_out'])}")
    return 0


def _form_of(name: str) -> str:
    forms = {".tgz": "tar.gz", **{f".{form}": form for form in FORMATS}}
    found = [form for ending, form in forms.items() if name.endswith(ending)]
    if not found and name != "-":
        raise Misuse(f"{name}: say what kind of archive with --format, or with the name: {', '.join(forms)}")
    return found[0] if found else "tar"


@contextlib.contextmanager
def _replaced(name: str) -> Iterator[BinaryIO]:
    """A file that is there under its name when it is whole, and not at all after a failure."""
    if name == "-":
        if sys.stdout.isatty():
            raise Misuse("an archive is not for a terminal; give --output FILE")
        yield sys.stdout.buffer
        return
    name = os.path.realpath(name)
    if os.path.lexists(name) and not os.path.isfile(name):  # a device or a pipe is written to
        with open(name, "wb") as file:
            yield file
        return
    part = f"{name}.part-{os.getpid()}"
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


COMMANDS = {
    "diff": Command(_diff_arguments, _diff, DIFF_EXAMPLE, takes_rest=True),
    "commit": Command(_commit_arguments, _commit, COMMIT_EXAMPLE, takes_rest=True),
    "discard": Command(_discard_arguments, _discard, DISCARD_EXAMPLE, takes_rest=True),
    "export": Command(_export_arguments, _export, EXPORT_EXAMPLE),
}

