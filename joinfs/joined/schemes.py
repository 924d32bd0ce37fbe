"""The kinds of store that can be named by a URL, for people."""

import importlib.util
from importlib.metadata import entry_points
from typing import NamedTuple

import joinfs.joined  # noqa: F401 - which registers oci
from joinfs.stores import ENTRY_POINTS, REGISTRY


class Scheme(NamedTuple):
    """One kind of store.

    Attributes:
        name: What its URLs begin with, without the colon.
        form: How its URLs look.
        about: What it is.
        writable: Whether it takes writes.
        extra: The extra of joinfs that brings it; empty if it is there as it is.
        is_there: Whether what it needs is installed.
    """

    name: str
    form: str
    about: str
    writable: bool
    extra: str = ""
    is_there: bool = True


_KNOWN = {
    "archive": ("archive:PATH", "7z, rar, cpio, rpm, ISO 9660, ar, deb, xar, cab, lha; read in place", False, "archives", "libarchive"),
    "az": ("az://CONTAINER/PREFIX", "a container of Azure's Blob Storage; ?account=NAME, or ?endpoint=URL", True, "azure", "azure.storage.blob"),
    "dir": ("dir:PATH", "a directory, as it is", True, "", ""),
    "gs": ("gs://BUCKET/PREFIX", "a bucket of Google Cloud Storage; ?endpoint=URL for servers to test with", True, "gcs", "google.auth"),
    "http": ("http://HOST/DIRECTORY/", "the files of a web server", False, "http", "httpx"),
    "https": ("https://HOST/DIRECTORY/", "the same, encrypted", False, "http", "httpx"),
    "memory": ("memory:", "nothing is kept", True, "", ""),
    "oci": ("oci:PATH[:TAG]", "a container image: its root file system", False, "", ""),
    "postgres": ("postgres://HOST/DATABASE", "tables of a PostgreSQL server, shared by many machines; ?schema=NAME", True, "postgres", "psycopg"),
    "python": ("python:MODULE:ATTRIBUTE", "a Python mapping, a store of encore's, or one of your own", True, "", ""),
    "redis": ("redis://HOST/DATABASE/PREFIX", "a Redis server, which several machines share", True, "redis", "redis"),
    "rediss": ("rediss://HOST/DATABASE/PREFIX", "the same, encrypted", True, "redis", "redis"),
    "s3": ("s3://BUCKET/PREFIX", "a bucket of objects; ?endpoint=URL for servers other than Amazon's", True, "object", "boto3"),
    "split": ("split:FIRST,SECOND", "names and small files in one store, large data in another", True, "", ""),
    "sqlite": ("sqlite:PATH", "one SQLite file, made if it is not there", True, "", ""),
    "tar": ("tar:PATH", "a tar archive, also with gzip, bzip2, xz, zstd; read in place", False, "", ""),
    "zip": ("zip:PATH", "a zip archive; read in place", False, "", ""),
}  # fmt: skip


def schemes() -> list[Scheme]:
    """Answer every kind of store, by name; those of other packages included."""
    found = [_scheme(name) for name in REGISTRY]
    for point in entry_points(group=ENTRY_POINTS):
        package = point.dist.name if point.dist is not None else point.value
        found.append(Scheme(point.name, f"{point.name}:...", f"of the package {package}", writable=True))
    return sorted(found)


def _scheme(name: str) -> Scheme:
    form, about, writable, extra, module = _KNOWN[name]
    return Scheme(name, form, about, writable, extra, not module or _is_installed(module))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even what it is in
        return False
