"""What to mount, from a TOML file.

A string that is nothing but ``env.NAME`` is the value of that variable of the environment: so no secret need stand in the file, in a
command or in what mount(8) shows.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from joinfs.config import (
    DRIVERS,
    LOG_LEVELS,
    MountConfig,
    MountOptions,
    StoreSpec,
    in_order,
    option_text,
    parse_options,
    stores_in,
)
from joinfs.errors import UsageError

_VARIABLE = re.compile(r"env\.([A-Za-z_][A-Za-z0-9_]*)")
_KEYS = {"store", "mountpoint", "driver", "log_file", "log_level", "options"}
_KEYS_OF_STORE = {"url", "name", "read_only", "prefix"}


def load_config(path: str) -> MountConfig:
    """Answer what a file says is to be mounted. Paths in it are relative to the directory that it is in.

    Raises:
        UsageError: It cannot be read, is not TOML, or says something that is not known.
    """
    try:
        with open(path, "rb") as file:
            told = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    try:
        return _config(_with_variables(told), os.path.dirname(os.path.abspath(path)))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _config(told: Mapping[str, Any], place: str) -> MountConfig:
    _check_known(told, _KEYS, "at its top")
    stores = told.get("store", [])
    if not isinstance(stores, list) or not all(isinstance(store, dict) for store in stores):
        raise UsageError("stores are tables, each headed [[store]]")
    options = told.get("options", {})
    if not isinstance(options, dict):
        raise UsageError("options is a table: options = { ro = true }")
    parsed = parse_options([option_text(name, value).replace(",", "\\,") for name, value in options.items()], MountOptions())
    named = [spec._replace(url=absolute(spec.url, place)) for spec in stores_in(parsed)]
    driver = _text(told, "driver") or "auto"
    if driver not in DRIVERS:
        raise UsageError(f"driver = {driver!r}: there are {', '.join(DRIVERS)}")
    level = _text(told, "log_level") or "warning"
    if level not in LOG_LEVELS:
        raise UsageError(f"log_level = {level!r}: there are {', '.join(LOG_LEVELS)}")
    mountpoint, log_file = _text(told, "mountpoint"), _text(told, "log_file")
    return MountConfig(
        stores=in_order(parsed, named, [_store(store, place) for store in stores]),
        mountpoint="" if mountpoint is None else _path(mountpoint, place),
        options=replace(parsed, upperdir=None, lowerdirs=()),
        driver=driver,
        log_file=log_file if log_file in {None, "syslog"} else _path(log_file or "", place),
        log_level=level,
    )


def _store(told: Mapping[str, Any], place: str) -> StoreSpec:
    _check_known(told, _KEYS_OF_STORE, "in [[store]]")
    url = _text(told, "url")
    if not url:
        raise UsageError("each [[store]] needs a url: a path, or SCHEME:PATH")
    read_only = told.get("read_only", False)
    if not isinstance(read_only, bool):
        raise UsageError("read_only is true or false")
    prefix = _text(told, "prefix")
    url = absolute(url, place)
    added = [*(["ro"] if read_only else []), *([f"prefix={_quoted(prefix)}"] if prefix else [])]
    if added and ":" not in url.partition("/")[0]:
        url = f"{_scheme(url)}:{_quoted(url)}"
    return StoreSpec(url + ("&" if "?" in url else "?") + "&".join(added) if added else url, _text(told, "name"))


def _scheme(path: str) -> str:
    # Here, because most files need none of it.
    from joinfs.stores import recognise  # noqa: PLC0415

    return recognise(path)


def _quoted(path: str) -> str:
    """A path as it is spelled in a store's URL that has options; without any it stands as it is."""
    return path.replace("%", "%25").replace("?", "%3F").replace("&", "%26")


def absolute(url: str, place: str) -> str:
    """A store's URL with its path made absolute, if it is a bare path or one of a local file, and relative to a directory."""
    scheme, colon, rest = url.partition(":")
    if not colon or "/" in scheme:
        return _path(url, place)
    if scheme in {"dir", "sqlite", "zip", "tar", "archive", "oci"} and not rest.startswith("/"):
        return f"{scheme}:{_path(rest, place)}"
    return url


def _path(path: str, place: str) -> str:
    return os.path.join(place, os.path.expanduser(path))


def _text(told: Mapping[str, Any], name: str) -> str | None:
    value = told.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name} is a string, in quotes")
    return value


def _check_known(told: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in told:
        if name not in known:
            import difflib  # noqa: PLC0415 - for mistakes only

            near = difflib.get_close_matches(name, sorted(known), 1)
            meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
            raise UsageError(f"{name!r} is not known {where}; {meant}")


def _with_variables(told: Any) -> Any:
    if isinstance(told, dict):
        return {name: _with_variables(value) for name, value in told.items()}
    if isinstance(told, list):
        return [_with_variables(value) for value in told]
    found = _VARIABLE.fullmatch(told) if isinstance(told, str) else None
    if found is None:
        return told
    if found[1] not in os.environ:
        raise UsageError(f"there is no variable {found[1]} in the environment, which {told!r} asks for")
    return os.environ[found[1]]
