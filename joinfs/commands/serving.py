"""Commands on mounts that are at work."""

import argparse
import time
from typing import Any

from joinfs.commands import Command
from joinfs.commands.joins import add_join, chosen
from joinfs.commands.output import amount, counted, print_json, say, shown
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
example:
  joinfs layers /mnt/data
"""


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
    mode = "read-only" if status["read_only"] else f"{amount(status['bytes_free'])} free"
    print(f"{shown(status['mountpoint'])}: {mode}, since {since}, process {status['pid']}, {counted(status['open_files'], 'open file')}")
    for layer in status["layers"]:
        _print_layer(layer)
    for name, size in status["staged"].items():
        print(f"  not yet in the first store: {shown(name)}, {amount(size)}")


def _print_layer(layer: dict[str, Any]) -> None:
    size = "" if layer["size"] is None else f", {amount(layer['size'])}"
    takes = ", takes the writes" if layer["layer"] == 0 and layer["writable"] else ""
    print(f"  {layer['layer']}  {shown(layer['name'])}  ({layer['kind']}{size}{takes})")


def _flush_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")


def _flush(given: argparse.Namespace) -> int:
    list(client.ask(_mount_at(given.mountpoint), "flush", {}))
    return 0


def _layers_arguments(parser: argparse.ArgumentParser) -> None:
    add_join(parser)
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each")


def _layers(given: argparse.Namespace) -> int:
    for layer in chosen(given).ask("layers", {}):
        print_json(layer) if given.json else _print_layer(layer)
    return 0


COMMANDS = {
    "status": Command(_status_arguments, _status, STATUS_EXAMPLE),
    "flush": Command(_flush_arguments, _flush, FLUSH_EXAMPLE),
    "layers": Command(_layers_arguments, _layers, LAYERS_EXAMPLE),
}
