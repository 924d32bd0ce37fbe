"""Attributes, metadata and xattrs as the user metadata of an object, under the names that rclone and s3fs use.

| name | value |
| --- | --- |
| ``mode`` | type and permissions, octal, with a 0 before it: what rclone writes, and s3fs reads as well as its own decimal |
| ``uid``, ``gid`` | decimal |
| ``mtime``, ``atime``, ``ctime`` | seconds since the epoch, with nine decimals |
| ``btime`` | when it was made, as RFC 3339 has it |
| ``rdev`` | of devices, hexadecimal |
| ``joinfs`` | JSON: what of the metadata is not simple text under a simple name, and the xattrs in base64 |

Metadata that is simple text under a simple name stands under that name, where other tools see it. Whatever
of the above others have written in another way is read too: decimal modes, whole seconds, RFC 3339.
"""

import base64
import json
import re
import stat as stat_module
from datetime import UTC, datetime
from typing import Any, NamedTuple

from joinfs.errors import OutOfSpace
from joinfs.stores.keys import is_encodable
from joinfs.stores.metadata import to_json
from joinfs.stores.value import NANOSECONDS, Metadata, Stat

# Bytes of names and values together that S3 takes; others take more.
MOST_BYTES = 2048
OWN = "joinfs"
RESERVED = {"mode", "uid", "gid", "mtime", "atime", "ctime", "btime", "rdev", OWN}
_TYPES = {getattr(stat_module, f"S_IF{kind}") for kind in ("DIR", "REG", "LNK", "CHR", "BLK", "IFO", "SOCK")}
_SIMPLE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)
# Spaces at the ends are lost in headers, and "=?" begins what is encoded as RFC 2047 says.
_SIMPLE_TEXT = re.compile(r"(?!=\?)[!-~]([ -~]*[!-~])?", re.ASCII)
_SECONDS = re.compile(r"(-?)(\d{1,11})(?:\.(\d{1,9})\d*)?", re.ASCII)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)


class Attributes(NamedTuple):
    """What an object says of itself beside its data."""

    stat: Stat
    metadata: Metadata
    xattrs: dict[str, bytes]


def headers_of(attributes: Attributes) -> dict[str, str]:
    """Answer the user metadata of an object.

    Raises:
        OutOfSpace: It is more than an object can have.
    """
    stat = attributes.stat
    headers = {"mode": f"0{stat.mode:o}", "uid": str(stat.uid), "gid": str(stat.gid)}
    headers |= {name: _seconds(getattr(stat, name)) for name in ("mtime", "atime", "ctime")}
    headers["btime"] = _rfc3339(stat.birth)
    if stat.rdev:
        headers["rdev"] = f"{stat.rdev:x}"
    simple = {name: value for name, value in attributes.metadata.items() if _is_simple(name, value)}
    rest = {name: value for name, value in attributes.metadata.items() if name not in simple}
    xattrs = {name: base64.b64encode(value).decode() for name, value in attributes.xattrs.items()}
    own = {name: value for name, value in (("metadata", rest), ("xattrs", xattrs)) if value}
    headers |= simple | ({OWN: to_json(own)} if own else {})
    _check_size(headers)
    return headers


def attributes_of(headers: dict[str, str], otherwise: Stat) -> Attributes:
    """Answer what the user metadata of an object says; ``otherwise`` has what it does not say, its kind and size."""
    own = _own(headers.get(OWN, ""))
    times = {name: _time(headers.get(name, "")) for name in ("mtime", "atime", "ctime", "btime")}
    mtime = _first(times["mtime"], otherwise.mtime)
    stat = otherwise._replace(
        mode=_mode(headers.get("mode", ""), otherwise.mode),
        uid=_number(headers.get("uid", ""), 10, otherwise.uid),
        gid=_number(headers.get("gid", ""), 10, otherwise.gid),
        rdev=_number(headers.get("rdev", ""), 16, 0),
        mtime=mtime,
        atime=_first(times["atime"], mtime),
        ctime=_first(times["ctime"], max(mtime, otherwise.mtime)),
        birth=_first(times["btime"], otherwise.birth),
    )
    simple = {name: value for name, value in headers.items() if name not in RESERVED and is_encodable(value)}
    return Attributes(stat, simple | own[0], own[1])


def _first(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _is_simple(name: str, value: Any) -> bool:
    if name in RESERVED or not isinstance(value, str):
        return False
    return _SIMPLE_NAME.fullmatch(name) is not None and _SIMPLE_TEXT.fullmatch(value) is not None


def _check_size(headers: dict[str, str]) -> None:
    size = sum(len(name) + len(value) for name, value in headers.items())
    if size > MOST_BYTES:
        raise OutOfSpace(f"an object has room for {MOST_BYTES} bytes of attributes and metadata, and these are {size}")


def _own(text: str) -> tuple[Metadata, dict[str, bytes]]:
    """The metadata and xattrs under our own name; none of it if it is not as we write it."""
    try:
        own = json.loads(text) if text else {}
        metadata, xattrs = own.get("metadata", {}), own.get("xattrs", {})
        return {**metadata}, {name: base64.b64decode(value) for name, value in xattrs.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}, {}


def _seconds(moment: int) -> str:
    seconds, rest = divmod(abs(moment), NANOSECONDS)
    return f"{'-' if moment < 0 else ''}{seconds}.{rest:09}"


def _rfc3339(moment: int) -> str:
    seconds, rest = divmod(max(moment, 0), NANOSECONDS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def _time(text: str) -> int | None:
    if match := _SECONDS.fullmatch(text):
        moment = int(match[2]) * NANOSECONDS + int((match[3] or "").ljust(9, "0"))
        return -moment if match[1] else moment
    if match := _RFC3339.fullmatch(text):
        try:
            seconds = int(datetime.fromisoformat(match[1] + match[3]).timestamp())
        except ValueError:
            return None
        return seconds * NANOSECONDS + int((match[2] or "").ljust(9, "0"))
    return None


def _number(text: str, base: int, otherwise: int) -> int:
    """A number of 32 bits, as uid, gid and rdev are."""
    try:
        number = int(text, base)
    except ValueError:
        return otherwise
    return number if 0 <= number < 1 << 32 else otherwise


def _mode(text: str, otherwise: int) -> int:
    """A mode, of the type that ``otherwise`` has if it has none.

    With a 0 before it, it is octal. Without, rclone's is octal as well, and that of s3fs is decimal: which of them it is
    is told by which makes sense, or else by which has no set-user-ID bit or the like.
    """
    octal, decimal = _number(text, 8, -1), _number(text, 10, -1)
    if text.startswith("0") or 0 <= octal < 0o10000:
        decimal = octal
    likely = [mode for mode in (octal, decimal) if 0 <= mode < 0o200000 and stat_module.S_IFMT(mode) in _TYPES]
    if likely:
        return min(likely, key=lambda mode: mode & 0o7000 != 0)
    if 0 <= octal < 0o10000:
        return stat_module.S_IFMT(otherwise) | octal
    return otherwise
