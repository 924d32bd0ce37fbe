"""Commands that make joinfs a part of the system: mount(8), fstab(5), systemd."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from joinfs.commands import Command
from joinfs.commands.output import say
from joinfs.config import MountConfig, in_order, parse_options, parse_store, stores_in
from joinfs.config_file import load_config
from joinfs.errors import JoinfsError, UsageError
from joinfs.mounting import start, with_upper
from joinfs.mountpoint import check_machine, check_mountpoint

# What mount(8) wants to be told by an exit code: it was asked for wrongly, or it failed.
MISUSED, FAILED = 1, 32
# The second is asked when what is mounted is to be remounted.
HELPERS, UNIT = ("mount.joinfs", "mount.fuse.joinfs"), "joinfs@.service"
_MARK = "# Written by joinfs install-helper."
# Options of mount(8) and fstab(5) that are for others than the file system, or say what is so anyway.
_NOT_OURS = re.compile(
    r"x-.*|X-.*|comment=.*|user=.*|defaults|auto|noauto|user|users|nouser|owner|group|nofail|_netdev|async|sync|dirsync|(no|)relatime|(no|)strictatime"
    r"|(no|)diratime|(no|)lazytime|loud|silent|(no|)iversion|(no|)mand|helper=.*|uhelper=.*"
)
# Names of sources that are nothing but names.
_NAMES = {"none", "joinfs", ""}
INSTALL_EXAMPLE = """\
Installs /sbin/mount.joinfs, which mount(8) calls; then this works, and so does the line in /etc/fstab:

  mount -t joinfs ~/data /mnt/data -o upperdir=/var/lib/changes
  mount -t joinfs /etc/joinfs/data.toml /mnt/data
  /srv/data  /mnt/data  joinfs  upperdir=/srv/changes,nofail,x-systemd.automount  0 0

The source is a store, or a TOML file for joinfs mount --config, or, with -o lowerdir=, none. A comma in a path is "\\,".
With --systemd a unit as well, joinfs@NAME.service, which mounts what /etc/joinfs/NAME.toml says.

example:
  joinfs install-helper
  joinfs install-helper --systemd
"""
HELPER_EXAMPLE = """\
For mount(8), by way of /sbin/mount.joinfs; see: joinfs install-helper

example:
  joinfs mount-helper ~/data /mnt/data -o upperdir=/var/lib/changes
"""


# -------------------------------------------------------------------- installing


def _install_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--systemd", action="store_true", help="install a unit for systemd as well")
    parser.add_argument("--prefix", metavar="DIR", default="/", help="the root of the system that it is installed in")
    parser.add_argument("--remove", action="store_true", help="take away what was installed")


def _install(given: argparse.Namespace) -> int:
    root = Path(given.prefix)
    wanted = {root / "sbin" / name: (_script(), 0o755) for name in HELPERS}
    unit = root / "etc/systemd/system" / UNIT
    if given.systemd or (given.remove and unit.exists()):
        wanted[unit] = (_unit(), 0o644)
    for path, (text, mode) in wanted.items():
        _check_ours(path)
        if given.remove:
            path.unlink(missing_ok=True)
            say(f"{path} is removed")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(text)
        new.chmod(mode)
        new.replace(path)
        say(f"{path} is installed")
    return 0


def _check_ours(path: Path) -> None:
    if path.exists() and _MARK not in path.read_text(errors="replace"):
        raise UsageError(f"{path} is there already, and not of joinfs; remove it first")


def _command() -> str:
    """What calls the same joinfs, from wherever; for a shell, and for systemd."""
    installed = Path(sys.executable).parent / "joinfs"
    if installed.exists():
        return shlex.quote(str(installed))
    place = f"PYTHONPATH={Path(__file__).parents[2]}"
    return shlex.join(["/usr/bin/env", place, sys.executable, "-P", "-m", "joinfs"])


def _script() -> str:
    return f'#!/bin/sh\n{_MARK}\nexec {_command()} mount-helper "$@"\n'


def _unit() -> str:
    template = resources.files("joinfs").joinpath("systemd.service").read_text()
    return f"{_MARK}\n{template}".replace("JOINFS", _command().replace("%", "%%").replace("$", "$$"))


# -------------------------------------------------------------------- mount(8)


def _helper_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("mountpoint", metavar="DIR")
    parser.add_argument("-o", dest="options", metavar="OPT[,OPT...]", action="append", default=[])
    parser.add_argument("-f", dest="fake", action="store_true", help="look whether it can be mounted, and do not")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="leave out what is not known of the options")
    for flag in ("-n", "-v", "-r", "-w"):
        parser.add_argument(flag, dest=f"flag{flag}", action="store_true", help=argparse.SUPPRESS)
    for flag in ("-t", "-N"):
        parser.add_argument(flag, dest=f"flag{flag}", help=argparse.SUPPRESS)


def _helper(given: argparse.Namespace) -> int:
    try:
        config = _wanted(given)
    except UsageError as error:
        say(str(error))
        return MISUSED
    try:
        check_mountpoint(config.mountpoint)
        check_machine(config.options.allow_other)
        remark = "" if given.fake else start(config)
    except (JoinfsError, OSError) as error:
        say(str(error))
        return FAILED
    if remark:
        say(remark)
    return 0


def _wanted(given: argparse.Namespace) -> MountConfig:
    words = [word for text in given.options for word in re.split(r"(?<!\\),", text) if word and not _NOT_OURS.fullmatch(word)]
    if "remount" in words:
        raise UsageError("a mount of joinfs cannot be remounted with other options; unmount it, and mount it with them")
    words += ["ro"] if getattr(given, "flag-r") else []
    config = load_config(given.source) if given.source.endswith(".toml") else MountConfig(stores=(), mountpoint="")
    options = parse_options(_known(words) if given.sloppy else words, config.options)
    stores = config.stores or (() if given.source in _NAMES else (parse_store(given.source),))
    stores = in_order(options, stores_in(options), stores)
    if not stores:
        raise UsageError("say what to mount: a store as the source, or -o lowerdir=")
    return with_upper(replace(config, stores=stores, options=options, mountpoint=os.path.abspath(given.mountpoint)), None)


def _known(words: Iterable[str]) -> Sequence[str]:
    known = []
    for word in words:
        try:
            parse_options([word])
        except UsageError:
            continue
        known.append(word)
    return known


COMMANDS = {
    "install-helper": Command(_install_arguments, _install, INSTALL_EXAMPLE),
    "mount-helper": Command(_helper_arguments, _helper, HELPER_EXAMPLE),
}
