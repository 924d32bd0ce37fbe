"""Commands on keys: listing, reading and writing a join that is not mounted; queries; where a path comes from."""

import argparse
import contextlib
import os
import shutil
import stat as stat_module
import sys
import time
from collections.abc import Iterator
from typing import Any

from joinfs.commands import Command, Misuse, reading_arguments
from joinfs.commands.joins import Join, add_join, chosen
from joinfs.commands.output import amount, coloured, print_json, progress, shown
from joinfs.control.querying import parse_field
from joinfs.errors import UsageError
from joinfs.joined.store import JoinedStore
from joinfs.mountpoint import locked
from joinfs.stores import Stat
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.keys import ROOT, directory_key
from joinfs.stores.progress import Work
from joinfs.stores.trees import below, copy_tree, delete_tree
from joinfs.stores.value import MEBIBYTE, NANOSECONDS

WHICH_EXAMPLE = """\
example:
  joinfs which /mnt/data/src/main.c
  joinfs which sqlite:changes.db ~/data -- src/main.c
"""
LS_EXAMPLE = """\
example:
  joinfs ls sqlite:changes.db ~/data archive.zip -- src
  joinfs ls -lR archive.tar.gz
"""
CAT_EXAMPLE = """\
example:
  joinfs cat sqlite:changes.db ~/data -- src/main.c
"""
GET_EXAMPLE = """\
example:
  joinfs get archive.zip -- docs/manual .        # the directory, with all that is in it
"""
PUT_EXAMPLE = """\
example:
  joinfs put sqlite:changes.db ~/data -- main.c src/main.c
"""
RM_EXAMPLE = """\
example:
  joinfs rm -r sqlite:changes.db ~/data -- src/old
"""
CP_EXAMPLE = """\
example:
  joinfs cp -r sqlite:changes.db ~/data -- src src.bak
"""
QUERY_EXAMPLE = """\
Prints the keys of the files whose metadata (extended attributes user.NAME, in a mount) has all of the fields. A value that is
JSON, such as 7 or true, is found as that and as text.

example:
  joinfs query sqlite:runs.db -- author=mel good=true
"""


def _quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of how far it is")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print lines of JSON")


# -------------------------------------------------------------------- reading


def _ls_arguments(parser: argparse.ArgumentParser) -> None:
    add_join(parser)
    _json(parser)
    parser.add_argument("-l", "--long", action="store_true", help="with modes, sizes and times")
    parser.add_argument("-R", "--recursive", action="store_true", help="with all that is below")


def _ls(given: argparse.Namespace) -> int:
    join = chosen(given)
    with join.opened() as store:
        for key in join.keys or (ROOT,):
            for name, stat in _listed(store, key, given.recursive):
                _print_entry(given, name, stat)
    return 0


def _listed(store: JoinedStore, key: str, recursive: bool) -> Iterator[tuple[str, Stat]]:
    found, stat = _found(store, key)
    if not stat.is_directory:
        yield found, stat
    elif recursive:
        yield from below(store, found)
    else:
        for name, child in sorted(store.list(found)):
            yield name + ("/" if child.is_directory else ""), child


def _found(store: JoinedStore, key: str) -> tuple[str, Stat]:
    """The key as it is spelled, and its attributes.

    Raises:
        UsageError: Nothing is there.
    """
    try:
        stat = store.lookup(key) if key else store.stat(ROOT)
    except KeyError:
        raise UsageError(f"there is no {shown(key)!r} in {store.name}") from None
    return directory_key(key) if stat.is_directory else key, stat


def _print_entry(given: argparse.Namespace, name: str, stat: Stat) -> None:
    if given.json:
        mode = stat_module.filemode(stat.mode)
        print_json({"key": name, "mode": mode, "size": stat.size, "uid": stat.uid, "gid": stat.gid, "mtime": stat.mtime / NANOSECONDS})
        return
    text = coloured(shown(name), "blue") if stat.is_directory else coloured(shown(name), "cyan") if stat.is_symlink else shown(name)
    if given.long:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stat.mtime / NANOSECONDS))
        text = f"{stat_module.filemode(stat.mode)} {stat.uid:>5} {stat.gid:>5} {stat.size:>12} {moment} {text}"
    print(text)


def _cat_arguments(parser: argparse.ArgumentParser) -> None:
    add_join(parser)


def _cat(given: argparse.Namespace) -> int:
    join = chosen(given)
    if not join.keys:
        raise Misuse("say which keys, after '--'")
    with join.opened() as store:
        for key in join.keys:
            found, stat = _found(store, key)
            if stat.is_directory:
                raise UsageError(f"{shown(found)!r} is a directory; see: joinfs ls")
            with store.get_data(found) as data:
                shutil.copyfileobj(data, sys.stdout.buffer, MEBIBYTE)
    return 0


def _get_arguments(parser: argparse.ArgumentParser) -> None:
    add_join(parser)
    _quiet(parser)


def _get(given: argparse.Namespace) -> int:
    join, target = _with_target(given, "say what to get, and where to: joinfs get STORE... -- KEY... PLACE")
    with progress(given.quiet) as told, join.opened(progress=told) as store:
        keys = [_found(store, key)[0] for key in join.keys]
        directory = os.path.isdir(target)
        if not directory and len(keys) > 1:
            raise UsageError(f"{target} is not a directory, so only one thing can be put there")
        for key in keys:
            place = os.path.join(target, os.path.basename(key.rstrip("/"))) if directory else target
            _get_one(store, key, os.path.abspath(place))
    return 0


def _get_one(store: JoinedStore, key: str, place: str) -> None:
    above, name = os.path.split(place)
    with DirectoryStore(above) as onto:
        if key == ROOT:
            _check_absent(place)
        slash = "/" if key == ROOT or key.endswith("/") else ""
        _copied(store, key, onto, name + slash)


def _check_absent(place: str) -> None:
    if os.path.lexists(place):
        raise UsageError(f"{place} is there already; say another name for all that is in the join")


def _with_target(given: argparse.Namespace, usage: str) -> tuple[Join, str]:
    """The join with the keys, and the last of what follows the ``--``, which is none of them."""
    rest = list(given.rest or ())
    if len(rest) < 2:
        raise Misuse(usage)
    target = rest.pop()
    given.rest = rest
    return chosen(given), target


# -------------------------------------------------------------------- writing


def _put_arguments(parser: argparse.ArgumentParser) -> None:
    add_join(parser)
    _quiet(parser)


def _put(given: argparse.Namespace) -> int:
    *files, target = given.rest or [""]
    if not files:
        raise Misuse("say what to put, and where to: joinfs put STORE... -- FILE... KEY; - is standard input")
    given.rest = [target]
    join = chosen(given)
    with progress(given.quiet) as told, join.opened(writes=True, progress=told) as store, locked(store):
        directory = target.endswith("/") or _is_directory(store, join.keys[0])
        if len(files) > 1 and not directory:
            raise UsageError(f"{target!r} is not a directory in {store.name}, so only one thing can be put there")
        for file in files:
            name = os.path.basename(os.path.abspath(file))
            _put_one(store, file, "/".join(part for part in (join.keys[0], name) if part) if directory else join.keys[0])
    return 0


def _is_directory(store: JoinedStore, key: str) -> bool:
    return key == ROOT or store.exists(directory_key(key))


def _put_one(store: JoinedStore, file: str, key: str) -> None:
    if not key:
        raise Misuse("say which key to put it at")
    if file == "-":
        store.set_data(key, sys.stdin.buffer)
        return
    above, name = os.path.split(os.path.abspath(file))
    with DirectoryStore(above, read_only=True) as source:
        try:
            stat = source.lookup(name)
        except KeyError:
            raise UsageError(f"there is no file {file}") from None
        slash = "/" if stat.is_directory else ""
        _copied(source, name + slash, store, key + slash)


def _copied(source: Any, key: str, onto: Any, new: str) -> None:
    """Copy with all that is below, and tell how far it is."""
    stat = source.stat(key)
    total = sum(child.size for _, child in below(source, key) if child.is_file) if stat.is_directory else stat.size
    with Work(source if isinstance(source, JoinedStore) else onto, "copying", total) as work:
        copy_tree(source, key, onto, new, lambda _, child: work.advance(child.size if child.is_file else 0))


def _rm_arguments(parser: argparse.ArgumentParser) -> None:
    add_join(parser)
    parser.add_argument("-r", "--recursive", action="store_true", help="directories too, with all that is in them")
    parser.add_argument("-f", "--force", action="store_true", help="say nothing of what is not there")


def _rm(given: argparse.Namespace) -> int:
    join = chosen(given)
    if not join.keys or not all(join.keys):
        raise Misuse("say which keys to remove, after '--'")
    with join.opened(writes=True) as store, locked(store), _together(store):
        for key in join.keys:
            with contextlib.suppress(UsageError) if given.force else contextlib.nullcontext():
                found, stat = _found(store, key)
                if stat.is_directory and not given.recursive:
                    raise UsageError(f"{shown(found)!r} is a directory; remove it with -r")
                delete_tree(store, found)
    return 0


def _cp_arguments(parser: argparse.ArgumentParser) -> None:
    add_join(parser)
    _quiet(parser)
    parser.add_argument("-r", "--recursive", action="store_true", help="directories too, with all that is in them")


def _cp(given: argparse.Namespace) -> int:
    join = chosen(given)
    if len(join.keys) < 2:
        raise Misuse("say what to copy, and where to: joinfs cp STORE... -- KEY... KEY")
    *keys, target = join.keys
    with progress(given.quiet) as told, join.opened(writes=True, progress=told) as store, locked(store), _together(store):
        directory = _is_directory(store, target)
        if len(keys) > 1 and not directory:
            raise UsageError(f"{shown(target)!r} is not a directory in {store.name}, so only one thing can be put there")
        for key in keys:
            found, stat = _found(store, key)
            if stat.is_directory and not given.recursive:
                raise UsageError(f"{shown(found)!r} is a directory; copy it with -r")
            place = f"{directory_key(target)}{key.rpartition('/')[2]}" if directory else target
            new = place + ("/" if stat.is_directory else "")
            if new == found or (stat.is_directory and new.startswith(found)):
                raise UsageError(f"{shown(found)!r} cannot be copied to itself, or into itself")
            _copied(store, found, store, new)
    return 0


def _together(store: JoinedStore) -> contextlib.AbstractContextManager[None]:
    """One transaction, if the first store has such."""
    return store.transaction("joinfs") if store.capabilities.transactions else contextlib.nullcontext()


# -------------------------------------------------------------------- asking


def _which_arguments(parser: argparse.ArgumentParser) -> None:
    add_join(parser)
    _json(parser)


def _which(given: argparse.Namespace) -> int:
    join = chosen(given)
    if not join.keys:
        join = join._replace(keys=(ROOT,))
    for key in join.keys:
        for held in join.ask("which", {"key": key}):
            if given.json:
                print_json({"asked": key, **held})
            else:
                _print_held(held)
    return 0


def _print_held(held: dict[str, Any]) -> None:
    size = f", {amount(held['size'])}" if held["kind"] == "file" else ""
    line = f"{held['layer']}  {shown(held['store'])}  {shown(held['key'] or '/')}  ({held['kind']}{size})"
    if "hidden_by" in held:
        print(coloured(f"{line}  hidden by {held['hidden_by']}: {held['how']}", "dim"))
    else:
        print(coloured(line, "bold"))


def _query_arguments(parser: argparse.ArgumentParser) -> None:
    add_join(parser)
    _json(parser)


def _query(given: argparse.Namespace) -> int:
    fields, given.rest = list(given.rest or ()), None
    if not fields:
        raise Misuse("say what to look for, after '--': field=value")
    with reading_arguments():
        for text in fields:
            parse_field(text)
    for found in chosen(given).ask("query", {"fields": fields}):
        if given.json:
            print_json(found)
        else:
            print(shown(found["key"]))
    return 0


COMMANDS = {
    "ls": Command(_ls_arguments, _ls, LS_EXAMPLE, takes_rest=True),
    "cat": Command(_cat_arguments, _cat, CAT_EXAMPLE, takes_rest=True),
    "get": Command(_get_arguments, _get, GET_EXAMPLE, takes_rest=True),
    "put": Command(_put_arguments, _put, PUT_EXAMPLE, takes_rest=True),
    "rm": Command(_rm_arguments, _rm, RM_EXAMPLE, takes_rest=True),
    "cp": Command(_cp_arguments, _cp, CP_EXAMPLE, takes_rest=True),
    "query": Command(_query_arguments, _query, QUERY_EXAMPLE, takes_rest=True),
    "which": Command(_which_arguments, _which, WHICH_EXAMPLE, takes_rest=True),
}
