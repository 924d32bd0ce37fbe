"""The command: arguments in; messages and exit codes out.

Exit codes: 0 done; 1 it could not be done, with one sentence on standard error; 2 it was not asked for
properly.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from joinfs import __version__
from joinfs.config import DRIVERS, MountConfig, StoreSpec, parse_options, parse_store
from joinfs.errors import JoinfsError, UsageError
from joinfs.mounting import check, end, log_to, serve, start
from joinfs.mountpoint import check_machine, check_mountpoint
from joinfs.recovering import recover

MOUNT_EXAMPLE = """\
STORE is the path of a directory, database or archive, a URL (dir:PATH, sqlite:PATH, zip:PATH, tar:PATH, oci:PATH,
http://HOST/DIRECTORY/, python:MODULE:ATTRIBUTE, memory:), or NAME=URL; after a URL, ?ro or ?prefix=DIRECTORY. The
first has priority and takes the writes.

example:
  joinfs mount sqlite:changes.db ~/data archive.zip /mnt/data
"""
UMOUNT_EXAMPLE = """\
example:
  joinfs umount /mnt/data
"""
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


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    top = argparse.ArgumentParser(prog="joinfs", description="Join stores and mount the result as a directory.")
    top.add_argument("--version", action="version", version=f"joinfs {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    form = argparse.RawDescriptionHelpFormatter
    mount = commands.add_parser("mount", help="mount stores, joined", epilog=MOUNT_EXAMPLE, formatter_class=form)
    mount.add_argument("-f", dest="foreground", action="store_true", help="stay in the foreground")
    mount.add_argument("-o", dest="options", metavar="OPT[,OPT...]", action="append", default=[], help="mount options: ro, allow_other, attr_timeout=SECONDS, ...")
    mount.add_argument("--driver", choices=DRIVERS, default="auto", help="how to speak to the kernel")
    mount.add_argument("--read-only", action="store_true", help="take no changes; the same as -o ro")
    mount.add_argument("--stats", action="store_true", help="at the end, with -f, print how often the kernel asked for what, and how long that took")
    mount.add_argument("--log-file", metavar="F", help="where the server writes its log")
    mount.add_argument("stores", metavar="STORE", nargs="+", help="what to join")
    mount.add_argument("mountpoint", metavar="MOUNTPOINT", help="an empty directory, as a rule")
    umount = commands.add_parser("umount", help="unmount, and wait until all is committed", epilog=UMOUNT_EXAMPLE, formatter_class=form)
    umount.add_argument("mountpoint", metavar="MOUNTPOINT")
    check = commands.add_parser("check", help="look for damage; nothing is changed", epilog=CHECK_EXAMPLE, formatter_class=form)
    check.add_argument("stores", metavar="STORE", nargs="+", help="as for mount, in the same order")
    recover = commands.add_parser("recover", help="get what was being written when a server died", epilog=RECOVER_EXAMPLE, formatter_class=form)
    recover.add_argument("-o", dest="options", metavar="staging=DIR", action="append", default=[], help="where it was mounted to keep it")
    what = recover.add_mutually_exclusive_group()
    what.add_argument("--into", metavar="DIR", help="put the files there")
    what.add_argument("--discard", action="store_true", help="throw them away")
    recover.add_argument("stores", metavar="STORE", nargs="*", help="only what was written to first stores with this in their names")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and answer its exit code."""
    given = parser().parse_args(arguments)
    try:
        if given.command == "mount":
            _mount(_config(given))
        elif given.command == "umount":
            end(given.mountpoint)
        elif given.command == "check":
            return _check(given)
        else:
            _recover(given)
    except (JoinfsError, OSError) as error:
        print(f"joinfs: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _config(given: argparse.Namespace) -> MountConfig:
    with _asked_properly():
        options = parse_options([*given.options, *(["ro"] if given.read_only else [])])
        staging = None if options.staging is None else os.path.abspath(options.staging)
        options = replace(options, stats=given.stats, staging=staging)
    log_file = None if given.log_file is None else os.path.abspath(given.log_file)
    return MountConfig(
        stores=_specs(given.stores),
        mountpoint=os.path.abspath(given.mountpoint),
        options=options,
        driver=given.driver,
        foreground=given.foreground,
        log_file=log_file,
    )


def _mount(config: MountConfig) -> None:
    # Before the server leaves the terminal, and the directory that relative paths are relative to.
    check_mountpoint(config.mountpoint)
    check_machine(config.options.allow_other)
    if config.foreground:
        log_to(config.log_file)
        serve(config, lambda _: None)  # it is in the log
        return
    remark = start(config)
    if remark:
        print(f"joinfs: {remark}", file=sys.stderr)


def _check(given: argparse.Namespace) -> int:
    count = 0
    for sentence in check(_specs(given.stores)):
        print(sentence, flush=True)  # checking may take long
        count += 1
    told = {0: "nothing is wrong", 1: "one thing is wrong"}.get(count, f"{count} things are wrong")
    print(f"joinfs: {told}", file=sys.stderr)
    return 1 if count else 0


@contextlib.contextmanager
def _asked_properly() -> Iterator[None]:
    """Exit with 2 and one sentence where what was asked for cannot be parsed."""
    try:
        yield
    except UsageError as error:
        print(f"joinfs: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _specs(texts: Sequence[str]) -> tuple[StoreSpec, ...]:
    with _asked_properly():
        return tuple(parse_store(text) for text in texts)


def _recover(given: argparse.Namespace) -> None:
    with _asked_properly():
        place = parse_options(given.options).staging
    lines = recover(given.stores, place, given.into, given.discard)
    print("\n".join(lines) or "nothing to recover")


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    return " ".join(str(error).split())
