"""What a mount is asked to be: store specs and mount options, parsed. No I/O happens here."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from joinfs.errors import UsageError

DRIVERS = ("auto", "devfuse", "fusepy")
LOG_LEVELS = ("error", "warning", "info", "debug")
_NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.+)", re.DOTALL)


class StoreSpec(NamedTuple):
    """A store as it was asked for: ``name`` is what messages and attributes call it, if it was given one."""

    url: str
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class MountOptions:
    """How to mount.

    Attributes:
        read_only: Take no changes.
        allow_other: Let other users in; None is "if root mounts".
        suid, dev, exec: Honour set-user-ID bits, devices, executables.
        atime: Let the kernel ask for access times.
        attr_timeout, entry_timeout: Seconds for which the kernel believes attributes, and names; None is the driver's choice.
        negative_timeout: Seconds for which the kernel believes that a name is not there; None likewise.
        whiteouts: How the first store hides what is below, ``oci`` or ``overlay``; see ``JoinedStore``.
        metacopy: Leave the data of large files below when their attributes change; see ``JoinedStore``.
        lower_ttl: Seconds for which it believes anything where nobody tells us if it changes.
        passthrough: Let the kernel read and write local files past us, where it can.
        staging: The directory in which data is kept until it is put into the first store; None is ``staging_place``.
        fsname: What mount(8) shows as the source.
        stats: Print at the end how often the kernel asked for what.
        trace: A file that each of its requests is recorded in.
        upperdir: As overlayfs has it: a store before all others.
        lowerdirs: Stores after that, the first with priority.
    """

    read_only: bool = False
    allow_other: bool | None = None
    suid: bool = False
    dev: bool = False
    exec: bool = True
    atime: bool = False
    attr_timeout: float | None = None
    entry_timeout: float | None = None
    negative_timeout: float | None = None
    whiteouts: str = "oci"
    metacopy: bool | None = None
    lower_ttl: float = 1.0
    passthrough: bool = True
    staging: str | None = None
    fsname: str = "joinfs"
    stats: bool = False
    trace: str | None = None
    upperdir: str | None = None
    lowerdirs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MountConfig:
    """A whole mount: the stores in their order, where, and how."""

    stores: tuple[StoreSpec, ...]
    mountpoint: str
    options: MountOptions = MountOptions()
    driver: str = "auto"
    foreground: bool = False
    log_file: str | None = None
    log_level: str = "warning"


def parse_store(text: str) -> StoreSpec:
    """Parse ``URL``, a path, or ``NAME=URL``; a path that looks like the last begins with ``./``."""
    named = _NAMED.fullmatch(text)
    spec = StoreSpec(named[2], named[1]) if named else StoreSpec(text)
    if not spec.url:
        raise UsageError("a store is a URL or a path, and this one is empty")
    return spec


def _seconds(name: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"-o {name}={value}: give a number of seconds, 0 or more")
    return seconds


def _word(name: str, value: str) -> str:
    if not value or "," in value:
        raise UsageError(f"-o {name}=: give a name without commas")
    return value


def _spelling(name: str, value: str) -> str:
    if value not in {"oci", "overlay"}:
        raise UsageError(f"-o {name}={value}: give oci (as in container images) or overlay (as the kernel's overlayfs has them)")
    return value


def _place(name: str, value: str) -> str:
    if not value:
        raise UsageError(f"-o {name}=: give a path, or a store's URL")
    return value


def _places(name: str, value: str) -> tuple[str, ...]:
    """Paths with ``:`` between them, which has a backslash before it in one; see overlayfs.rst."""
    places = tuple(place.replace("\\:", ":") for place in re.split(r"(?<!\\):", value))
    if not all(places):
        raise UsageError(f"-o {name}={value}: give paths with ':' between them")
    return places


def _always(name: str, value: str) -> str:
    """What overlayfs can be told to do, and joinfs always does."""
    if value not in _ALWAYS[name]:
        raise UsageError(f"-o {name}={value}: joinfs always does what {name}={_ALWAYS[name][0]} says; leave it out")
    return value


def _switch(name: str, value: str) -> bool:
    if value not in {"on", "off"}:
        raise UsageError(f"-o {name}={value}: give on or off")
    return value == "on"


_FLAGS: dict[str, dict[str, Any]] = {
    "ro": {"read_only": True},
    "rw": {"read_only": False},
    "allow_other": {"allow_other": True},
    "noallow_other": {"allow_other": False},
    "suid": {"suid": True},
    "nosuid": {"suid": False},
    "dev": {"dev": True},
    "nodev": {"dev": False},
    "exec": {"exec": True},
    "noexec": {"exec": False},
    "atime": {"atime": True},
    "noatime": {"atime": False},
    "passthrough": {"passthrough": True},
    "nopassthrough": {"passthrough": False},
    "metacopy": {"metacopy": True},
    "nometacopy": {"metacopy": False},
    "default_permissions": {},  # always so
    "userxattr": {},  # so far as that is needed
}
# Options of overlayfs that say what is always so, with the values that do.
_ALWAYS = {"redirect_dir": ("on", "follow"), "index": ("on",), "xino": ("on", "auto"), "uuid": ("auto", "on", "null")}
# Options whose names are not those of fields: which field they set; None if they set nothing.
_FIELDS: dict[str, str | None] = {"lowerdir": "lowerdirs", "workdir": None, **dict.fromkeys(_ALWAYS)}
_VALUES: dict[str, Callable[[str, str], Any]] = {
    "attr_timeout": _seconds,
    "entry_timeout": _seconds,
    "negative_timeout": _seconds,
    "lower_ttl": _seconds,
    "fsname": _word,
    "staging": _word,
    "whiteouts": _spelling,
    "upperdir": _place,
    "lowerdir": _places,
    "workdir": _place,  # what overlayfs needs it for is done in the first store
    "metacopy": _switch,
    **dict.fromkeys(_ALWAYS, _always),
}


def parse_options(texts: Iterable[str], options: MountOptions | None = None) -> MountOptions:
    """Parse what followed each ``-o``: options with commas between them, later ones outranking earlier.

    Raises:
        UsageError: One is not known, or its value makes no sense.
    """
    options = options or MountOptions()
    for text in re.split(r"(?<!\\),", ",".join(texts)):  # a path may have a comma, as \\,
        if text:
            options = replace(options, **_parse_option(text.replace("\\,", ",")))
    return options


def stores_in(options: MountOptions) -> tuple[StoreSpec, ...]:
    """The stores that are given as overlayfs's options are: ``upperdir``, then each ``lowerdir``."""
    upper = () if options.upperdir is None else (options.upperdir,)
    return tuple(parse_store(text) for text in (*upper, *options.lowerdirs))


def in_order(options: MountOptions, named: Sequence[StoreSpec], others: Sequence[StoreSpec]) -> tuple[StoreSpec, ...]:
    """Answer the stores that options name and others together: ``upperdir``, the others, then each ``lowerdir``."""
    place = 0 if options.upperdir is None else 1
    return (*named[:place], *others, *named[place:])


def option_text(name: str, value: object) -> str:
    """How an option that Python gives is spelled after ``-o``: ``True`` is the option itself, ``False`` its contrary."""
    if value is True:
        return name
    if value is not False:
        return f"{name}={value}"
    if f"no{name}" in _FLAGS:
        return f"no{name}"
    return "" if name in _FLAGS else name  # what is no option is refused when it is parsed


def _parse_option(text: str) -> dict[str, Any]:
    name, equals, value = text.partition("=")
    if name in _FLAGS and not (equals and name in _VALUES):
        if equals:
            raise UsageError(f"-o {name} takes no value")
        return _FLAGS[name]
    if name in _VALUES:
        if not equals:
            raise UsageError(f"-o {name} needs a value: {name}=...")
        field, parsed = _FIELDS.get(name, name), _VALUES[name](name, value)
        return {} if field is None else {field: parsed}
    import difflib  # noqa: PLC0415 - for mistakes only

    near = difflib.get_close_matches(name, [*_FLAGS, *_VALUES], 1)
    meant = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted([*_FLAGS, *_VALUES]))}"
    raise UsageError(f"-o {name} is not an option of joinfs; {meant}")
