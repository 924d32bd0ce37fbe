"""Commands on mounts that are at work."""

import argparse
import os
import shlex
import time
from typing import Any

from joinfs.commands import Command, Misuse, reading_arguments
from joinfs.commands.joins import Join, add_join, chosen
from joinfs.commands.output import amount, counted, print_json, say, shown
from joinfs.config import parse_store
from joinfs.config_file import absolute
from joinfs.control import client
from joinfs.errors import JoinfsError, UsageError

STATUS_EXAMPLE = """\
Without a mountpoint, of all mounts.

example:
  joinfs status
  joinfs status /mnt/data --json
"""
FLUSH_EXAMPLE = """\
What is written to a first store without local files (SQLite, memory) is put there when a file is closed or synced; this does it now.

example:
  joinfs flush /mnt/data
"""
LAYERS_EXAMPLE = """\
A store is added as the last, which shows what no other has, or as number N; nothing else than a mount can be changed so.

example:
  joinfs layers /mnt/data
  joinfs layers /mnt/data --add more.zip
  joinfs layers /mnt/data --remove 2
"""
SNAPSHOT_EXAMPLE = """\
The first store stays as it is now, below a new one, which takes the writes from then on. Nothing is unmounted, or copied.

example:
  joinfs snapshot /mnt/data
  joinfs snapshot /mnt/data --upper sqlite:after.db
"""
# So many kinds of request are told of.
MOST_VERBS = 4


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mountpoints", metavar="MOUNTPOINT", nargs="*")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each mount")


def _status(given: argparse.Namespace) -> int:
    mounted = [_mount_at(path) for path in given.mountpoints] or client.mounts()
    failed = 0
    for one in mounted:
        try:
            for status in client.ask(one, "status", {}):
                print_json(status) if given.json else _print_status(status)
        except JoinfsError as error:  # of a mount that is not ours, or whose server has died
            failed += 1
            say(str(error))
    if not mounted and not given.json:
        print("nothing is mounted")
    return 1 if failed else 0


def _mount_at(path: str) -> client.Mounted:
    found = client.mount_with(path)
    if found is None:
        raise UsageError(f"{path} is in no mount of joinfs")
    return found[0]


def _print_status(status: dict[str, Any]) -> None:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() - status["seconds"]))
    mode = "read-only" if status["read_only"] else f"{amount(status['bytes_free'])} free" if status["bytes"] else "no bounds"
    print(f"{shown(status['mountpoint'])}: {mode}, since {since}, process {status['pid']}, {counted(status['open_files'], 'open file')}")
    for layer in status["layers"]:
        _print_layer(layer)
    if status["requests"]:
        print(f"  {_requests(status['requests'])}")
    for name, size in status["staged"].items():
        print(f"  not yet in the first store: {shown(name)}, {amount(size)}")


def _requests(rows: dict[str, dict[str, float]]) -> str:
    """How many requests there were, and which most often."""
    often = sorted(rows, key=lambda verb: -rows[verb]["requests"])[:MOST_VERBS]
    total = sum(int(row["requests"]) for row in rows.values())
    return f"{counted(total, 'request')} of the kernel: " + ", ".join(f"{verb} {rows[verb]['requests']:,}" for verb in often)


def _print_layer(layer: dict[str, Any]) -> None:
    size = "" if layer["size"] is None else f", {amount(layer['size'])}"
    takes = ", takes the writes" if layer["layer"] == 0 and layer["writable"] else ""
    waiting = f", {counted(layer['waiting'], 'file')} to be sent" if layer.get("waiting") else ""
    print(f"  {layer['layer']}  {shown(layer['name'])}  ({layer['kind']}{size}{takes}{waiting})")


def _flush_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")


def _flush(given: argparse.Namespace) -> int:
    list(client.ask(_mount_at(given.mountpoint), "flush", {}))
    return 0


def _layers_arguments(parser: argparse.ArgumentParser) -> None:
    add_join(parser)
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--add", metavar="STORE", help="join one more store")
    how.add_argument("--remove", metavar="STORE", help="its number, from 1, or its name: join it no more")
    parser.add_argument("--at", metavar="N", type=int, help="the number that the one has that is added")


def _layers(given: argparse.Namespace) -> int:
    join = chosen(given)
    if given.at is not None and given.add is None:
        raise Misuse("--at says where --add puts a store")
    if given.add is not None:
        list(_mounted(join).ask("add_layer", {"store": _absolute(given.add), "at": given.at}))
    if given.remove is not None:
        list(_mounted(join).ask("remove_layer", {"layer": given.remove}))
    for layer in join.ask("layers", {}):
        print_json(layer) if given.json else _print_layer(layer)
    return 0


def _mounted(join: Join) -> Join:
    if join.mounted is None:
        raise Misuse("say which mount; of stores that are not mounted, name others")
    return join


def _absolute(text: str) -> str:
    """A store as it was named, so that a server finds it, whose directory is another."""
    with reading_arguments():
        spec = parse_store(text)
    url = absolute(spec.url, os.getcwd())
    return url if spec.name is None else f"{spec.name}={url}"


def _snapshot_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument("--upper", metavar="STORE", help="the store that takes the writes from then on; a new one beside the first unless given")


def _snapshot(given: argparse.Namespace) -> int:
    upper = None if given.upper is None else _absolute(given.upper)
    for taken in client.ask(_mount_at(given.mountpoint), "snapshot", {"upper": upper}):
        stores = shlex.join(taken["layers"])
        say(f"{shown(taken['frozen'])} stays as it is; changes go into {shown(taken['upper'])}. To mount the same again: joinfs mount {stores} {shlex.quote(given.mountpoint)}")
    return 0


COMMANDS = {
    "status": Command(_status_arguments, _status, STATUS_EXAMPLE),
    "flush": Command(_flush_arguments, _flush, FLUSH_EXAMPLE),
    "layers": Command(_layers_arguments, _layers, LAYERS_EXAMPLE),
    "snapshot": Command(_snapshot_arguments, _snapshot, SNAPSHOT_EXAMPLE),
}
