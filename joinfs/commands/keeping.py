"""Commands that look after what is kept: damage, and what servers have left."""

import argparse

from joinfs.commands import Command, reading_arguments
from joinfs.commands.joins import add_join, chosen
from joinfs.commands.output import print_json, progress, say
from joinfs.config import parse_options
from joinfs.recovering import recover

CHECK_EXAMPLE = """\
Reads all that is in the stores. Exits with 1 if something is wrong, after a line for each such thing.

example:
  joinfs check sqlite:changes.db ~/data archive.zip
"""
RECOVER_EXAMPLE = """\
Lists files that were open to be written when their server was killed, or that it could not put into the first store.

example:
  joinfs recover --into ~/recovered changes.db
"""


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    add_join(parser)
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each thing")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of how far it is")


def _check(given: argparse.Namespace) -> int:
    count = 0
    with progress(given.quiet) as told:
        for answer in chosen(given).ask("check", {}, progress=told):
            print_json(answer) if given.json else print(answer["wrong"], flush=True)  # checking may take long
            count += 1
    if not given.quiet:
        say({0: "nothing is wrong", 1: "one thing is wrong"}.get(count, f"{count} things are wrong"))
    return 1 if count else 0


def _recover_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", dest="options", metavar="staging=DIR", action="append", default=[], help="where it was mounted to keep it")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--into", metavar="DIR", help="put the files there")
    what.add_argument("--discard", action="store_true", help="throw them away")
    parser.add_argument("stores", metavar="STORE", nargs="*", help="only what was written to first stores with this in their names")


def _recover(given: argparse.Namespace) -> int:
    with reading_arguments():
        place = parse_options(given.options).staging
    lines = recover(given.stores, place, given.into, given.discard)
    print("\n".join(lines) or "nothing to recover")
    return 0


COMMANDS = {
    "check": Command(_check_arguments, _check, CHECK_EXAMPLE),
    "recover": Command(_recover_arguments, _recover, RECOVER_EXAMPLE),
}
