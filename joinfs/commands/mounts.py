"""Commands that mount and unmount."""

import argparse
import os
from dataclasses import replace

from joinfs.commands import Command, reading_arguments
from joinfs.commands.output import say
from joinfs.config import DRIVERS, LOG_LEVELS, MountConfig, MountOptions, in_order, parse_options, parse_store, stores_in
from joinfs.config_file import load_config
from joinfs.errors import UsageError
from joinfs.mounting import end, log_to, serve, start, with_upper
from joinfs.mountpoint import check_machine, check_mountpoint

MOUNT_EXAMPLE = """\
STORE is the path of a directory, database or archive, a URL (dir:PATH, sqlite:PATH, zip:PATH, tar:PATH, oci:PATH,
http://HOST/DIRECTORY/, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, postgres://HOST/DATABASE,
redis://HOST/DATABASE/PREFIX, split:FIRST,SECOND, python:MODULE:ATTRIBUTE, memory:), or NAME=URL; after a URL, ?ro, ?prefix=DIRECTORY, ?cache=DIRECTORY or
?writeback=DIRECTORY. The first has priority and takes the writes; what
kinds there are: joinfs stores.

--upper auto puts an SQLite file before them, in your state directory, called after them: the same the next time. It is
what is done if none of them takes writes, unless -o ro.

-o takes what overlayfs does, too: lowerdir=A:B, upperdir=C (workdir is not needed), xino, metacopy, ...

A file for --config says the same in TOML; env.NAME in a string that is nothing else is that variable of the environment:

  mountpoint = "/mnt/data"
  options = { ro = false, attr_timeout = 10 }
  [[store]]
  url = "sqlite:changes.db"
  [[store]]
  url = "env.DATA_URL"
  name = "data"

example:
  joinfs mount sqlite:changes.db ~/data archive.zip /mnt/data
"""
UMOUNT_EXAMPLE = """\
example:
  joinfs umount /mnt/data
"""


def _mount_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", dest="foreground", action="store_true", help="stay in the foreground")
    parser.add_argument("-o", dest="options", metavar="OPT[,OPT...]", action="append", default=[], help="mount options: ro, allow_other, attr_timeout=SECONDS, ...")
    parser.add_argument("--driver", choices=DRIVERS, default=None, help="how to speak to the kernel")
    parser.add_argument("--read-only", action="store_true", help="take no changes; the same as -o ro")
    parser.add_argument("--upper", metavar="STORE", help="a store to put before the others; auto: one in your state directory")
    parser.add_argument("--config", metavar="FILE", help="a TOML file that says what to mount")
    parser.add_argument("--stats", action="store_true", help="at the end, with -f, print how often the kernel asked for what, and how long that took")
    parser.add_argument("--trace", metavar="FILE", help="record each of the kernel's requests in a file, for the report of a fault; it has names of files, and not what is in them")
    parser.add_argument("--log-file", metavar="F", help="where the server writes its log; syslog for the system's")
    parser.add_argument("--log-level", choices=LOG_LEVELS, help="what is bad or interesting enough for the log; warning unless given")
    parser.add_argument("places", metavar="STORE ... MOUNTPOINT", nargs="*", help="what to join, and where; an empty directory, as a rule")


def _mount(given: argparse.Namespace) -> int:
    with reading_arguments():
        config = _config(given)
    given_stores = config.stores
    config = with_upper(config, given.upper)
    if config.stores != given_stores and given.upper in {None, "auto"}:
        say(f"changes go into {config.stores[0].url}" + ("; -o ro takes none" if given.upper is None else ""))
    # Before the server leaves the terminal, and the directory that relative paths are relative to.
    check_mountpoint(config.mountpoint)
    check_machine(config.options.allow_other)
    if config.foreground:
        log_to(config)
        serve(config, lambda _: None)  # it is in the log
        return 0
    remark = start(config)
    if remark:
        say(remark)
    return 0


def _config(given: argparse.Namespace) -> MountConfig:
    config = load_config(given.config) if given.config else MountConfig(stores=(), mountpoint="")
    options = parse_options([*given.options, *(["ro"] if given.read_only else [])], config.options)
    *stores, mountpoint = given.places or [config.mountpoint or ""]
    if given.config and stores and config.stores:
        raise UsageError(f"{given.config} names the stores already; give only the mountpoint beside it, if any")
    specs = config.stores or tuple(parse_store(text) for text in stores)
    specs = in_order(options, stores_in(options), specs)
    if not mountpoint or not specs:
        raise UsageError("say which stores to mount, and at the end where: joinfs mount STORE... MOUNTPOINT")
    config = replace(config, stores=specs, options=_absolute(options, given), mountpoint=os.path.abspath(mountpoint))
    return replace(
        config,
        driver=given.driver or config.driver,
        foreground=given.foreground,
        log_file=os.path.abspath(given.log_file) if given.log_file not in {None, "syslog"} else given.log_file or config.log_file,
        log_level=given.log_level or config.log_level,
    )


def _absolute(options: MountOptions, given: argparse.Namespace) -> MountOptions:
    staging = None if options.staging is None else os.path.abspath(options.staging)
    trace = None if given.trace is None else os.path.abspath(given.trace)
    return replace(options, stats=given.stats, trace=trace, staging=staging)


def _umount_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")


def _umount(given: argparse.Namespace) -> int:
    end(given.mountpoint)
    return 0


COMMANDS = {
    "mount": Command(_mount_arguments, _mount, MOUNT_EXAMPLE),
    "umount": Command(_umount_arguments, _umount, UMOUNT_EXAMPLE),
}
